//! How a TOML value becomes a typed setting, and how it is shown again.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use globset::Glob;
use holdfast_proto::Fingerprint;
use holdfast_proto::labels::LabelText;
use holdfast_proto::names::{
    ActorName, ClusterId, FilestoreName, ProviderName, Region, ResidencyName, SystemId, TierName,
};
use toml::de::DeValue;

use crate::postgres::{PgTarget, SlotName};

/// A setting's type.
pub(super) trait FromValue: Sized {
    /// Parses it; the error says what is wrong and what to write instead.
    fn from_value(value: &DeValue<'_>) -> Result<Self, String>;

    /// The value as `holdfast config show` prints it.
    fn show(&self) -> String;
}

fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value
        .as_str()
        .ok_or_else(|| format!("is {}, a text in quotes is needed", article(value)))
}

fn article(value: &DeValue<'_>) -> String {
    match value.type_str() {
        kind if kind.starts_with(['a', 'i', 'o']) => format!("an {kind}"),
        kind => format!("a {kind}"),
    }
}

macro_rules! from_text {
    ($($name:ty),*) => {$(
        impl FromValue for $name {
            fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
                text(value)?.parse().map_err(|e| format!("{e}"))
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

from_text!(
    ActorName,
    ClusterId,
    FilestoreName,
    ProviderName,
    Region,
    ResidencyName,
    SystemId,
    TierName,
    LabelText,
    Fingerprint,
    PgTarget,
    SlotName
);

impl FromValue for String {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        text(value).map(str::to_owned)
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl FromValue for bool {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        value
            .as_bool()
            .ok_or_else(|| format!("is {}, true or false is needed", article(value)))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl FromValue for NonZeroUsize {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        (value.as_integer())
            .and_then(|n| usize::from_str_radix(n.as_str(), n.radix()).ok())
            .and_then(NonZeroUsize::new)
            .ok_or_else(|| "is not a whole number of at least 1".to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl FromValue for u32 {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        (value.as_integer())
            .and_then(|n| u32::from_str_radix(n.as_str(), n.radix()).ok())
            .filter(|n| *n > 0)
            .ok_or_else(|| "is not a whole number of at least 1".to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A path must be absolute: a daemon's working directory is nobody's choice.
impl FromValue for PathBuf {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        let path = PathBuf::from(text(value)?);
        if !path.is_absolute() {
            return Err(format!(
                "{:?} is not an absolute path: begin it with /",
                path.display()
            ));
        }
        Ok(path)
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl FromValue for Glob {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        let pattern = text(value)?;
        if !pattern.starts_with('/') {
            return Err(format!("{pattern:?} is not absolute: begin it with /"));
        }
        // `*` stays within one name, as in a shell.
        globset::GlobBuilder::new(pattern)
            .literal_separator(true)
            .build()
            .map_err(|e| format!("is not a pattern of file names: {e}"))
    }

    fn show(&self) -> String {
        self.glob().to_owned()
    }
}

impl FromValue for Duration {
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        let written =
            text(value).map_err(|_| "a duration needs a unit: write for example \"15s\"".to_owned())?;
        parse_duration(written)
            .ok_or_else(|| format!("{written:?} is not a duration: write for example \"250ms\", \"15s\", \"10min\", \"2h\" or \"1d\""))
    }

    fn show(&self) -> String {
        show_duration(*self)
    }
}

const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("min", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// `15s`, `10min`; one number with one unit.
fn parse_duration(written: &str) -> Option<Duration> {
    let split = written.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = written.split_at(split);
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    let number: u64 = number.parse().ok()?;
    number.checked_mul(*millis).map(Duration::from_millis)
}

/// The largest unit that divides it.
fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (name, unit) = (UNITS.iter())
        .find(|(_, unit)| millis >= *unit && millis.is_multiple_of(*unit))
        .unwrap_or(&UNITS[3]);
    format!("{}{name}", millis / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_a_unit() {
        for (written, millis) in [
            ("250ms", 250),
            ("15s", 15_000),
            ("10min", 600_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("3 s", 3000),
        ] {
            let parsed = parse_duration(written).expect(written);
            assert_eq!(parsed, Duration::from_millis(millis));
            assert_eq!(parse_duration(&show_duration(parsed)), Some(parsed));
        }
        for bad in [
            "",
            "15",
            "s",
            "-1s",
            "1.5h",
            "15 parsecs",
            "99999999999999999999d",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }
}
