//! Where the repository lies: two directories, or two buckets of an S3 service,
//! each behind a line of its own.

use std::fs;
use std::path::Path;

use anyhow::Result;
use holdfast_tests::s3::{Line, Service};

/// The regions, in the order of the configuration: the first decides what must
/// have one winner.
pub const REGIONS: [&str; 2] = ["region-a", "region-b"];

/// Where the repository lies.
#[derive(Debug)]
pub enum Place {
    /// In directories of the stage.
    Directories,
    /// In buckets.
    S3(Box<Buckets>),
}

/// A bucket for each region, made and guarded as the manual says.
#[derive(Debug)]
pub struct Buckets {
    /// The service.
    pub service: Service,
    /// Their names, by region.
    pub names: [String; 2],
    /// The lines to them, by region.
    pub lines: [Line; 2],
}

impl Place {
    /// In directories.
    pub fn directories() -> Self {
        Place::Directories
    }

    /// On the S3 service of the environment, if it names one.
    pub fn s3() -> Result<Option<Self>> {
        Self::s3_with(|service| Ok([service.documented_bucket()?, service.documented_bucket()?]))
    }

    /// On the S3 service, in the buckets that `make` makes.
    pub fn s3_with(make: impl FnOnce(&Service) -> Result<[String; 2]>) -> Result<Option<Self>> {
        let Some(service) = Service::from_env() else {
            return Ok(None);
        };
        let names = make(&service)?;
        let lines = [Line::to(&service)?, Line::to(&service)?];
        Ok(Some(Place::S3(Box::new(Buckets {
            service,
            names,
            lines,
        }))))
    }

    /// On the S3 service, behind lines that the pods of a test cluster reach, too.
    pub fn s3_for_pods(near: [std::net::SocketAddr; 2]) -> Result<Option<Self>> {
        let Some(service) = Service::from_env() else {
            return Ok(None);
        };
        let names = [service.documented_bucket()?, service.documented_bucket()?];
        let lines = [Line::at(near[0], &service)?, Line::at(near[1], &service)?];
        Ok(Some(Place::S3(Box::new(Buckets {
            service,
            names,
            lines,
        }))))
    }

    /// The replicas as `who` (an S3 user) names them in a configuration file.
    pub fn replicas(&self, root: &Path, who: &str) -> Result<String> {
        let mut entries = Vec::new();
        for (n, region) in REGIONS.iter().enumerate() {
            entries.push(match self {
                Place::Directories => {
                    format!("{{ url = \"file://{}/{region}\", region = \"{region}\" }}", root.display())
                }
                Place::S3(buckets) => {
                    let user = buckets.service.user(who);
                    let secret = root.join(format!("s3-{who}"));
                    fs::write(&secret, format!("{}\n", user.secret))?;
                    format!(
                        "{{ url = \"s3://{}\", region = \"{region}\", accept_without_conditional_create = true, options = {{ \
                         aws_endpoint = \"{}\", aws_allow_http = \"true\", aws_region = \"us-east-1\", \
                         aws_access_key_id = \"{}\", aws_secret_access_key_file = \"{}\" }} }}",
                        buckets.names[n],
                        buckets.lines[n].endpoint(),
                        user.key,
                        secret.display()
                    )
                }
            });
        }
        Ok(format!("[\n  {},\n]", entries.join(",\n  ")))
    }

    /// The first region is gone.
    pub fn lose_the_first(&mut self, root: &Path) -> Result<()> {
        match self {
            Place::Directories => fs::remove_dir_all(root.join(REGIONS[0]))?,
            Place::S3(buckets) => buckets.lines[0].cut(),
        }
        Ok(())
    }
}
