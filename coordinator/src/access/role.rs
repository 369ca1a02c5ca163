//! Roles, and what each lets one do.
//!
//! A role is a set of permissions and nothing else. The table below is the whole
//! truth; `docs/operations/access.md` shows the same, and a test compares them.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use utoipa::ToSchema;

/// Something that a route may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Permission {
    /// See clusters, their exposure and their findings.
    Fleet,
    /// See drills, their statements and what they came to.
    Evidence,
    /// See the policy in force and the one that waits.
    Policy,
    /// See what waits for more than one person, with its plan.
    Approvals,
    /// Scrape metrics.
    Metrics,
    /// See who was let in to what.
    Access,
    /// Have the repository and the policy's file looked at now.
    Refresh,
}

impl Permission {
    /// All of them, in the order of the documentation's table.
    pub const ALL: [Permission; 7] = [
        Permission::Fleet,
        Permission::Evidence,
        Permission::Policy,
        Permission::Approvals,
        Permission::Metrics,
        Permission::Access,
        Permission::Refresh,
    ];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Permission::Fleet => "fleet",
            Permission::Evidence => "evidence",
            Permission::Policy => "policy",
            Permission::Approvals => "approvals",
            Permission::Metrics => "metrics",
            Permission::Access => "access",
            Permission::Refresh => "refresh",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a person or a program is here for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Looks at clusters.
    Viewer,
    /// Judges evidence, and who could see what.
    Auditor,
    /// Runs restores and answers alarms.
    Operator,
    /// Says yes or no to what needs more than one person.
    Approver,
    /// Keeps identities that open backups.
    KeyCustodian,
    /// Writes the policy.
    PolicyAdmin,
    /// A program that scrapes metrics.
    Monitor,
    /// May see and ask for everything.
    Admin,
}

impl Role {
    /// All of them, in the order of the documentation's table.
    pub const ALL: [Role; 8] = [
        Role::Viewer,
        Role::Auditor,
        Role::Operator,
        Role::Approver,
        Role::KeyCustodian,
        Role::PolicyAdmin,
        Role::Monitor,
        Role::Admin,
    ];

    /// Its word, as it stands in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Auditor => "auditor",
            Role::Operator => "operator",
            Role::Approver => "approver",
            Role::KeyCustodian => "key-custodian",
            Role::PolicyAdmin => "policy-admin",
            Role::Monitor => "monitor",
            Role::Admin => "admin",
        }
    }

    /// What it lets one do.
    pub fn permissions(self) -> &'static [Permission] {
        use Permission::{Access, Approvals, Evidence, Fleet, Metrics, Policy, Refresh};
        match self {
            Role::Viewer => &[Fleet],
            Role::Auditor => &[Fleet, Evidence, Policy, Approvals, Access],
            Role::Operator => &[Fleet, Evidence, Policy, Approvals, Metrics, Refresh],
            Role::Approver => &[Fleet, Evidence, Policy, Approvals],
            Role::KeyCustodian => &[Fleet, Evidence, Approvals],
            Role::PolicyAdmin => &[Fleet, Policy, Approvals, Refresh],
            Role::Monitor => &[Metrics],
            Role::Admin => &Permission::ALL,
        }
    }

    /// Whether it lets one do this.
    pub fn may(self, permission: Permission) -> bool {
        self.permissions().contains(&permission)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Role::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| {
            let known: Vec<&str> = Role::ALL.iter().map(|role| role.as_str()).collect();
            format!("{text:?} is not a role: known are {}", known.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_says_the_same() {
        let page = include_str!("../../../docs/operations/access.md");
        let rows: Vec<String> = Role::ALL
            .iter()
            .map(|role| {
                let cells = Permission::ALL.map(|p| if role.may(p) { " yes |" } else { " |" });
                format!("| `{role}` |{}", cells.concat())
            })
            .collect();
        for row in rows {
            assert!(page.contains(&row), "docs/operations/access.md lacks\n{row}");
        }
    }

    #[test]
    fn words_round_trip() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
            assert_eq!(serde_json::json!(role), role.as_str());
        }
        for permission in Permission::ALL {
            assert_eq!(serde_json::json!(permission), permission.as_str());
        }
        assert!("root".parse::<Role>().unwrap_err().contains("policy-admin"));
    }
}
