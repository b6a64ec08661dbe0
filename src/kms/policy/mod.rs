//! Key policies: who may do what with a KMS key, in the language of AWS policy documents.
//! A policy is parsed as a whole ([`Policy::parse`]): what this build does not understand is refused, never ignored. Evaluation
//! ([`Policy::verdict`]) cannot fail. When it is put, a policy is also checked against its key ([`Policy::check`]): a statement
//! that could never match is refused. Stored policies are not checked again.
//!
//! | in a document | here |
//! |---|---|
//! | `Version` | 2012-10-17, 2008-10-17 (the default) |
//! | `Principal` | `"*"`, `{"AWS": …}` (`*`, an account, `arn:aws:iam::ACCOUNT:root`, a user or role by ARN), `{"Service": …}` |
//! | `NotPrincipal` | refused: with a service that acts on behalf of users, it denies more, and allows more, than it says |
//! | `Action`, `NotAction` | an action of `words`, or `*`; `*` matches any characters, `?` matches one; case-insensitive |
//! | `Resource`, `NotResource` | `*`, or ARNs of keys with `*` and `?` |
//! | `Condition` | see [`condition`] |
//! | variables (`${aws:username}`) | refused in version 2012-10-17; plain text in 2008-10-17, as in AWS |
//!
//! Sources: IAM User Guide, "IAM JSON policy element reference" and "Policy evaluation logic"; KMS Developer Guide, "Key
//! policies in AWS KMS", "Condition keys for AWS KMS".

mod arn;
mod check;
pub mod condition;
mod forms;
mod parse;
mod pattern;
mod question;
mod words;

use arn::{is_root, region_of, service_of};
use condition::Condition;
use pattern::wild;
use serde_json::{Map, Value};

pub(super) use arn::account_of;
pub use parse::MAX_POLICY;
pub(super) use pattern::fold_case;
pub use question::{GrantFacts, Question};
pub use words::{EXPORT_VOLUME_KEY, VOLUME_SERVICE};

/// A parsed policy document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    version: Version,
    id: Option<String>,
    statements: Vec<Statement>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V2008,
    V2012,
}

impl Version {
    const fn name(self) -> &'static str {
        match self {
            Self::V2008 => "2008-10-17",
            Self::V2012 => "2012-10-17",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Statement {
    sid: Option<String>,
    allow: bool,
    /// First those of `AWS`, then those of `Service`.
    principals: Vec<Principal>,
    actions: Names,
    resources: Names,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Principal {
    Everyone,
    /// All principals of an account, if their own permissions allow it; in a Deny, all of them.
    Account(String),
    Arn(String),
    Service(String),
}

/// What a statement applies to: these, or (`not`) everything except these.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Names {
    not: bool,
    patterns: Vec<String>,
}

impl Names {
    fn of(patterns: &[&str]) -> Self {
        Self { not: false, patterns: patterns.iter().map(|p| (*p).to_owned()).collect() }
    }

    fn cover(&self, fits: impl Fn(&str) -> bool) -> bool {
        self.patterns.iter().any(|p| fits(p)) != self.not
    }
}

/// The result of evaluating a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A Deny matches, which overrides everything else.
    Denied,
    /// An Allow for the principal matches.
    Allowed,
    /// An Allow for the principal's account matches: the principal's own permissions decide.
    Delegated,
    /// No statement matches.
    Silent,
}

impl Principal {
    /// Whether it matches the principal, and whether only by its account.
    fn matches(&self, q: &Question<'_>) -> Option<ByAccount> {
        let (arn, fits) = (q.principal, |yes: bool, by| yes.then_some(by));
        match self {
            Self::Everyone => Some(ByAccount(false)),
            Self::Arn(named) => fits(named == arn, ByAccount(false)),
            Self::Service(name) => {
                let own =
                    service_of(arn) == Some(VOLUME_SERVICE) && words::is_volume_service(name, region_of(q.resource));
                fits(own, ByAccount(false))
            }
            Self::Account(id) => {
                // A service belongs to no account: it is named itself, or by a grant.
                let member = account_of(arn) == Some(id) && service_of(arn).is_none();
                fits(member, ByAccount(!is_root(arn)))
            }
        }
    }
}

struct ByAccount(bool);

impl Statement {
    fn allow(sid: &str, principal: Principal, actions: &[&str], conditions: Vec<Condition>) -> Self {
        Self {
            sid: Some(sid.to_owned()),
            allow: true,
            principals: vec![principal],
            actions: Names::of(actions),
            resources: Names::of(&["*"]),
            conditions,
        }
    }

    fn fits(&self, q: &Question<'_>) -> bool {
        let action = format!("kms:{}", q.action);
        self.actions.cover(|p| wild(p, &action, true))
            && self.resources.cover(|p| wild(p, q.resource, false))
            && self.conditions.iter().all(|c| c.holds(q, self.allow))
    }
}

impl Policy {
    /// The default policy: the account's root may do everything, and principals of the account what their own permissions
    /// allow.
    #[must_use]
    pub fn of_account(account: &str) -> Self {
        let root = Principal::Account(account.to_owned());
        let all = Statement::allow("Enable IAM policies", root, &["kms:*"], Vec::new());
        Self { version: Version::V2012, id: Some("key-default-1".to_owned()), statements: vec![all] }
    }

    /// The policy of the service-managed key of volumes: every principal of the account, through the service.
    #[must_use]
    pub fn of_volume_service(account: &str) -> Self {
        let uses = ["Encrypt", "Decrypt", "ReEncrypt*", "GenerateDataKey*", "CreateGrant", "DescribeKey"];
        let uses: Vec<String> = uses.iter().map(|u| format!("kms:{u}")).collect();
        // Not for everyone who uses a volume: only the account's administrators may export a data key.
        let looks = ["kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant", "kms:ExportVolumeKey"];
        let through = vec![
            Condition::string_equals("kms:CallerAccount", words::Key::Account, account),
            Condition::string_equals("kms:ViaService", words::Key::ViaService, VOLUME_SERVICE),
        ];
        let uses: Vec<&str> = uses.iter().map(String::as_str).collect();
        let statements = vec![
            Statement::allow("All of the account, through the volume service", Principal::Everyone, &uses, through),
            Statement::allow(
                "The account's look at it, and its way out",
                Principal::Account(account.to_owned()),
                &looks,
                Vec::new(),
            ),
        ];
        Self { version: Version::V2012, id: Some("auto-ebs-2".to_owned()), statements }
    }

    /// Evaluates a request. A Deny overrides every Allow.
    #[must_use]
    pub fn verdict(&self, q: &Question<'_>) -> Verdict {
        let mut verdict = Verdict::Silent;
        for statement in &self.statements {
            let mut named = statement.principals.iter().filter_map(|p| p.matches(q)).peekable();
            if named.peek().is_none() || !statement.fits(q) {
                continue;
            }
            if !statement.allow {
                return Verdict::Denied;
            }
            if named.any(|by| !by.0) {
                verdict = Verdict::Allowed;
            } else if verdict == Verdict::Silent {
                verdict = Verdict::Delegated;
            }
        }
        verdict
    }

    /// The document, formatted for people.
    #[must_use]
    pub fn pretty(&self) -> String {
        // serde_json sorts an object's fields; this uses the customary order.
        let mut out = format!("{{\n  \"Version\": \"{}\",\n", self.version.name());
        if let Some(id) = &self.id {
            out.push_str(&format!("  \"Id\": {},\n", Value::from(id.as_str())));
        }
        out.push_str("  \"Statement\": [\n");
        let statements: Vec<String> = self.statements.iter().map(Statement::pretty).collect();
        out.push_str(&statements.join(",\n"));
        out.push_str("\n  ]\n}");
        out
    }
}

/// A single value as it is, several as a list.
fn one_or_list(values: &[String]) -> Value {
    match values {
        [one] => Value::from(one.as_str()),
        all => Value::from(all.to_vec()),
    }
}

fn principals_json(principals: &[Principal]) -> Value {
    if principals == [Principal::Everyone] {
        return Value::from("*");
    }
    let (mut aws, mut services) = (Vec::new(), Vec::new());
    for principal in principals {
        match principal {
            Principal::Everyone => aws.push("*".to_owned()),
            Principal::Account(id) => aws.push(format!("arn:aws:iam::{id}:root")),
            Principal::Arn(arn) => aws.push(arn.clone()),
            Principal::Service(name) => services.push(name.clone()),
        }
    }
    let all = [("AWS", aws), ("Service", services)];
    let filled = all.iter().filter(|(_, v)| !v.is_empty());
    Value::Object(filled.map(|(k, v)| ((*k).to_owned(), one_or_list(v))).collect())
}

impl Statement {
    fn pretty(&self) -> String {
        let named = |word: &str, names: &Names| {
            (if names.not { format!("Not{word}") } else { word.to_owned() }, one_or_list(&names.patterns))
        };
        let mut fields = vec![
            ("Effect".to_owned(), Value::from(if self.allow { "Allow" } else { "Deny" })),
            ("Principal".to_owned(), principals_json(&self.principals)),
            named("Action", &self.actions),
            named("Resource", &self.resources),
        ];
        if let Some(sid) = &self.sid {
            fields.insert(0, ("Sid".to_owned(), Value::from(sid.as_str())));
        }
        if !self.conditions.is_empty() {
            let mut by_operator = Map::new();
            for condition in &self.conditions {
                let keys = by_operator.entry(condition.operator()).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(keys) = keys {
                    keys.insert(condition.key().to_owned(), one_or_list(condition.values()));
                }
            }
            fields.push(("Condition".to_owned(), Value::Object(by_operator)));
        }
        let line = |(name, value): &(String, Value)| {
            let text = serde_json::to_string_pretty(value).unwrap_or_default();
            format!("      \"{name}\": {}", text.replace('\n', "\n      "))
        };
        let lines: Vec<String> = fields.iter().map(line).collect();
        format!("    {{\n{}\n    }}", lines.join(",\n"))
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
