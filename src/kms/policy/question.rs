//! What a policy is asked: who wants to do what with which resource, and what else is known of the request.

use super::arn;
use super::keys::Key;
use super::pattern::fold_case;
use crate::cipher::wrap::EncryptionContext;
use crate::env::Timestamp;
use std::collections::BTreeMap;

/// A request, as a policy sees it.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The action with the prefix of its service, as `kms:Decrypt`.
    pub action: &'a str,
    /// ARN of the resource; `*` for an action on none.
    pub resource: &'a str,
    /// Who asks.
    pub principal: &'a PrincipalFacts,
    /// What the operation adds.
    pub facts: &'a Facts,
    /// The time of the request.
    pub now: Timestamp,
}

impl Question<'_> {
    /// The action without its service, as `Decrypt`.
    #[must_use]
    pub fn operation(&self) -> &str {
        self.action.split_once(':').map_or(self.action, |(_, name)| name)
    }
}

/// The kinds of principals (IAM User Guide, "AWS JSON policy elements: Principal").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrincipalKind {
    /// The root user of an account.
    Root,
    /// A user of an account.
    User,
    /// A session of a role.
    Session,
    /// A service, which acts for itself.
    Service,
    /// Nobody known.
    Anonymous,
}

/// Temporary credentials of a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionFacts {
    /// When they were issued: `aws:TokenIssueTime`.
    pub issued: Timestamp,
    /// When the principal authenticated itself with a second factor, if it did: `aws:MultiFactorAuthPresent`, `…Age`.
    pub mfa: Option<Timestamp>,
}

/// What is known of the principal of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalFacts {
    /// Its ARN; of a session of a role: `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`.
    pub arn: String,
    /// Its account, 12 digits.
    pub account: String,
    /// What it is.
    pub kind: PrincipalKind,
    /// `aws:userid`: a user's id, `ROLE-ID:SESSION`, or of root the account.
    pub user_id: Option<String>,
    /// `aws:username`, of users alone.
    pub user_name: Option<String>,
    /// Of a session: the ARN of its role, with its path. It is the `aws:PrincipalArn` of the session.
    pub role_arn: Option<String>,
    /// `aws:PrincipalTag`: of the user, or of the session.
    pub tags: BTreeMap<String, String>,
    /// Of temporary credentials.
    pub session: Option<SessionFacts>,
    /// The service that makes the request on behalf of the principal. Set by coffer's service layer, never from a request.
    pub via_service: Option<String>,
}

impl PrincipalFacts {
    /// What the ARN alone says of a principal.
    #[must_use]
    pub fn of_arn(arn: &str) -> Self {
        let account = arn::account_of(arn).unwrap_or_default().to_owned();
        let (mut kind, mut user_id, mut user_name, mut role_arn) = (PrincipalKind::Anonymous, None, None, None);
        match arn.splitn(6, ':').nth(5).map(|r| r.split_once('/').unwrap_or((r, ""))) {
            Some(("root", _)) => (kind, user_id) = (PrincipalKind::Root, Some(account.clone())),
            Some(("user", name)) => (kind, user_name) = (PrincipalKind::User, Some(name.to_owned())),
            Some(("service", _)) => kind = PrincipalKind::Service,
            Some(("role", _)) => (kind, role_arn) = (PrincipalKind::Session, Some(arn.to_owned())),
            Some(("assumed-role", rest)) => {
                let role = rest.split('/').next().unwrap_or_default();
                (kind, role_arn) = (PrincipalKind::Session, Some(format!("arn:aws:iam::{account}:role/{role}")));
            }
            _ => {}
        }
        let arn = arn.to_owned();
        let (tags, session, via_service) = (BTreeMap::new(), None, None);
        Self { arn, account, kind, user_id, user_name, role_arn, tags, session, via_service }
    }

    /// As the service does a request for it.
    #[must_use]
    pub fn through(self, service: Option<&str>) -> Self {
        Self { via_service: service.map(str::to_owned), ..self }
    }

    /// The unique id of its role, of a role's session.
    #[must_use]
    pub(super) fn role_id(&self) -> Option<&str> {
        self.user_id.as_deref()?.split_once(':').map(|(role, _)| role)
    }

    /// What else than its ARN names it in grants: the ARN of its role, its unique id, and that of its role.
    pub(crate) fn other_names(&self) -> [Option<&str>; 3] {
        [self.role_arn.as_deref(), self.user_id.as_deref(), self.role_id()]
    }

    /// Its `aws:PrincipalArn`.
    #[must_use]
    pub fn principal_arn(&self) -> &str {
        self.role_arn.as_deref().unwrap_or(&self.arn)
    }

    /// Whether it is the service of that name.
    pub(super) fn is_service(&self, name: &str) -> bool {
        self.kind == PrincipalKind::Service && arn::service_of(&self.arn) == Some(name)
    }
}

/// The values of condition keys that an operation supplies. A key without a value is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Few, so that a search through all is quick.
    values: Vec<(Key, Vec<String>)>,
    /// The pairs of the encryption context, or of the constraint of a grant.
    context: Vec<(String, String)>,
}

impl Facts {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self { values: Vec::new(), context: Vec::new() }
    }

    /// Several values of a key, in place of those that it has; none make it absent.
    #[must_use]
    pub fn texts(mut self, key: Key, values: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.values.retain(|(k, _)| *k != key);
        let values: Vec<String> = values.into_iter().map(Into::into).collect();
        if !values.is_empty() {
            self.values.push((key, values));
        }
        self
    }

    /// The value of a key.
    #[must_use]
    pub fn text(self, key: Key, value: impl Into<String>) -> Self {
        self.texts(key, [value.into()])
    }

    /// The value of a key, if there is one.
    #[must_use]
    pub fn text_if(self, key: Key, value: Option<impl Into<String>>) -> Self {
        self.texts(key, value)
    }

    /// True or false.
    #[must_use]
    pub fn flag(self, key: Key, value: bool) -> Self {
        self.text(key, value.to_string())
    }

    /// A number.
    #[must_use]
    pub fn number(self, key: Key, value: i64) -> Self {
        self.text(key, value.to_string())
    }

    /// A moment, to the millisecond.
    #[must_use]
    pub fn moment(self, key: Key, at: Timestamp) -> Self {
        self.text(key, moment(at))
    }

    /// The encryption context of the operation; for CreateGrant, that of the grant's constraint.
    #[must_use]
    pub fn context(mut self, context: &EncryptionContext) -> Self {
        self.context = context.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        self
    }

    /// The grant that an operation creates or revokes.
    #[must_use]
    pub fn grant(self, grant: &GrantFacts) -> Self {
        self.flag(Key::GrantIsForAwsResource, grant.for_aws_resource)
            .texts(Key::GrantOperations, grant.operations.iter().cloned())
            .text_if(Key::GranteePrincipal, grant.grantee.clone())
            .text_if(Key::RetiringPrincipal, grant.retiring.clone())
            .text_if(Key::GrantConstraintType, grant.constraint)
    }

    /// The tags of a request that sets them: `aws:RequestTag/NAME` and `aws:TagKeys`.
    #[must_use]
    pub fn request_tags<'a>(self, tags: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let (mut facts, mut names) = (self, Vec::new());
        for (name, value) in tags {
            names.push(name);
            facts.values.push((Key::RequestTag(name.to_owned()), vec![value.to_owned()]));
        }
        facts.texts(Key::TagKeys, names)
    }

    /// The tags of the resource: `aws:ResourceTag/NAME`.
    #[must_use]
    pub fn resource_tags<'a>(mut self, tags: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let of = |(name, value): (&str, &str)| (Key::ResourceTag(name.to_owned()), vec![value.to_owned()]);
        self.values.extend(tags.into_iter().map(of));
        self
    }

    /// Both; the other's value of a key counts.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.values.retain(|(k, _)| other.get(k).is_empty());
        self.values.extend(other.values.iter().cloned());
        if !other.context.is_empty() {
            self.context.clone_from(&other.context);
        }
        self
    }

    /// The values of a key, none if it is absent. Names of tags are compared as they are written.
    #[must_use]
    pub fn get(&self, key: &Key) -> &[String] {
        self.values.iter().find(|(k, _)| k == key).map_or(&[], |(_, values)| values)
    }

    /// The pairs of the encryption context.
    pub(super) fn pairs(&self) -> &[(String, String)] {
        &self.context
    }

    /// The values of all tags whose names are this one, case-folded.
    pub(super) fn tags(&self, wanted: &Key) -> Vec<String> {
        let is = |key: &Key| match (key, wanted) {
            (Key::RequestTag(name), Key::RequestTag(of)) | (Key::ResourceTag(name), Key::ResourceTag(of)) => {
                fold_case(name) == *of
            }
            _ => false,
        };
        self.values.iter().filter(|(k, _)| is(k)).flat_map(|(_, v)| v.clone()).collect()
    }
}

/// A time with milliseconds, as policies write it.
pub(super) fn moment(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| (at.0 / 1000).to_string(), |t| t.to_string())
}

/// The properties of a grant that conditions can test when it is created or revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantFacts {
    /// Whether a service makes the request for a resource of its own, such as a volume.
    pub for_aws_resource: bool,
    /// The operations that it allows.
    pub operations: Vec<String>,
    /// Who may use it, at CreateGrant.
    pub grantee: Option<String>,
    /// Who may retire it, at CreateGrant.
    pub retiring: Option<String>,
    /// The type of its constraint: `EncryptionContextEquals`, `EncryptionContextSubset`.
    pub constraint: Option<&'static str>,
}
