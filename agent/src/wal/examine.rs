//! Looks whether a server's WAL is the cluster's, before its agent takes the lease of
//! another one.
//!
//! The same rules as when the line begins ([`super::start`]), from the same facts: what the
//! replicas hold, what the server says of its past. Nothing is stored.

use std::path::Path;

use futures::future::join_all;
use holdfast_proto::names::Lineage;
use holdfast_repository::publisher::Publisher;
use holdfast_repository::replica::explained;

use super::Following;
use super::archive::Archive;
use super::histories::Histories;
use super::ledger::Ledger;
use super::push::Feed;
use super::start::{self, Refusal, Server};
use crate::postgres::{PgError, PgTarget, ReplicationConnection, identity_by_sql, sql_connect};

/// A server that was not found to be the one to write for.
#[derive(Debug, thiserror::Error)]
pub enum Unexamined {
    /// It is not.
    #[error("this server's WAL is not the cluster's, and the lease is left to whoever has it: {0}")]
    Refused(#[from] Refusal),
    /// It could not be asked.
    #[error(transparent)]
    Server(#[from] PgError),
    /// The archive or the server's history could not be read.
    #[error("whether this server's WAL is the cluster's cannot be told: {0}")]
    Unknown(String),
}

/// The server beside an agent.
pub struct Examined<'a> {
    /// In whose name, and where to.
    pub publisher: &'a Publisher,
    /// The line of descent.
    pub lineage: Lineage,
    /// The server.
    pub target: &'a PgTarget,
    /// How its WAL comes.
    pub feed: Feed,
    /// Its data directory, where it is configured.
    pub data_directory: Option<&'a Path>,
    /// How far it was seen to follow.
    pub following: &'a Following,
}

impl Examined<'_> {
    /// Looks.
    ///
    /// # Errors
    /// It is not the one to write for, or that cannot be told.
    pub async fn examine(&self) -> Result<(), Unexamined> {
        let identity = match self.feed {
            Feed::Stream => {
                let mut connection = ReplicationConnection::connect(self.target).await?;
                connection.identify_system().await?
            }
            Feed::Archive => {
                let said = identity_by_sql(self.target).await?;
                said.ok_or_else(|| Unexamined::Unknown("the server is a standby".to_owned()))?
            }
        };
        let unknown = |error: &dyn std::fmt::Display| Unexamined::Unknown(error.to_string());
        let said = match self.feed {
            Feed::Stream => {
                let mut connection = ReplicationConnection::connect(self.target).await?;
                Histories::of_server(&mut connection, identity.timeline).await
            }
            Feed::Archive => {
                let directory = match self.data_directory {
                    Some(directory) => directory.to_owned(),
                    None => self.setting("data_directory").await?.into(),
                };
                Histories::of_directory(&directory.join("pg_wal"), identity.timeline)
            }
        };
        let said = said.map_err(|e| unknown(&e))?;
        let size = self.setting("wal_segment_size").await?;
        let size = size
            .parse()
            .ok()
            .and_then(|n| holdfast_proto::pg::SegmentSize::new(n).ok());
        let size =
            size.ok_or_else(|| Unexamined::Unknown("the server's segment size is unreadable".to_owned()))?;
        let ledger = self.archived().await?;
        let server = Server {
            timeline: identity.timeline,
            flush: identity.flush,
            history: &said.history,
            slot: None,
            segment_size: size,
            followed: self.following.seen(),
            said: self.following.is_said(identity.timeline),
        };
        start::plan(&ledger, server)?;
        Ok(())
    }

    /// What the replicas within reach hold.
    async fn archived(&self) -> Result<Ledger, Unexamined> {
        let repository = &self.publisher.repository;
        let archive = Archive {
            repository: repository.id(),
            cluster: self.publisher.cluster.clone(),
            lineage: self.lineage,
        };
        let replicas = repository.replicas();
        let mut ledger = Ledger::new(replicas.iter().map(|r| r.region().clone()), self.publisher.copies);
        let held = join_all(replicas.iter().map(|replica| archive.holdings(replica))).await;
        let mut why = None;
        for (place, held) in held.into_iter().enumerate() {
            match held {
                Ok(holdings) => ledger.listed(place, holdings),
                Err(error) => why = Some(explained(&error)),
            }
        }
        match why {
            Some(why) if ledger.unlisted().len() == replicas.len() => Err(Unexamined::Unknown(why)),
            _ => Ok(ledger),
        }
    }

    /// A setting of the server, in its base unit.
    async fn setting(&self, name: &str) -> Result<String, PgError> {
        let client = sql_connect(self.target).await?;
        let ask = "SELECT setting FROM pg_catalog.pg_settings WHERE name = $1";
        let row = client.query_opt(ask, &[&name]).await?;
        match row {
            Some(row) => Ok(row.try_get(0)?),
            None => Err(PgError::Invalid(format!(
                "the role may not see the setting {name}"
            ))),
        }
    }
}
