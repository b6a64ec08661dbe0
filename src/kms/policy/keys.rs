//! Condition keys: a table of those that this build can evaluate, and the names of others. A key that is in neither is misspelt:
//! a Deny with it would never match, so it is refused.
//!
//! Sources: Service Authorization Reference, "Condition keys for AWS Key Management Service"; KMS Developer Guide, "AWS KMS
//! condition keys"; IAM User Guide, "AWS global condition context keys", "Available keys for AWS STS".

use super::actions::uses_a_key;
use super::choice;
use super::choice::{BOOL, Choice};
use super::kind::Kind;
use super::pattern::{fold_case, wild};
use super::words::is_service;
use crate::cipher::wrap::MAX_CONTEXT;
use crate::iam::is_account;

/// A condition key that this build can evaluate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// `kms:ViaService`
    ViaService,
    /// `kms:CallerAccount` and `aws:PrincipalAccount`, which are the same.
    Account,
    /// `kms:EncryptionContext:NAME`, the value of one pair; in a policy, its name is case-folded.
    Pair(String),
    /// `kms:EncryptionContextKeys`
    ContextKeys,
    /// `kms:GrantIsForAWSResource`
    GrantIsForAwsResource,
    /// `kms:GrantOperations`
    GrantOperations,
    /// `kms:GranteePrincipal`
    GranteePrincipal,
    /// `kms:RetiringPrincipal`
    RetiringPrincipal,
    /// `kms:GrantConstraintType`
    GrantConstraintType,
    /// `kms:KeySpec` and `kms:CustomerMasterKeySpec`
    KeySpec,
    /// `kms:KeyUsage` and `kms:CustomerMasterKeyUsage`
    KeyUsage,
    /// `kms:KeyOrigin`
    KeyOrigin,
    /// `kms:MultiRegion`
    MultiRegion,
    /// `kms:MultiRegionKeyType`
    MultiRegionKeyType,
    /// `kms:PrimaryRegion`
    PrimaryRegion,
    /// `kms:ReplicaRegion`
    ReplicaRegion,
    /// `kms:EncryptionAlgorithm`
    EncryptionAlgorithm,
    /// `kms:SigningAlgorithm`
    SigningAlgorithm,
    /// `kms:MessageType`
    MessageType,
    /// `kms:MacAlgorithm`
    MacAlgorithm,
    /// `kms:KeyAgreementAlgorithm`
    KeyAgreementAlgorithm,
    /// `kms:DataKeyPairSpec`
    DataKeyPairSpec,
    /// `kms:RequestAlias`: the alias by which the request names the key, with `alias/`.
    RequestAlias,
    /// `kms:ResourceAliases`: all aliases of the key.
    ResourceAliases,
    /// `kms:BypassPolicyLockoutSafetyCheck`
    BypassPolicyLockoutSafetyCheck,
    /// `kms:ScheduleKeyDeletionPendingWindowInDays`
    ScheduleKeyDeletionPendingWindowInDays,
    /// `kms:RotationPeriodInDays`
    RotationPeriodInDays,
    /// `kms:ValidTo`: a moment, as [`Facts::moment`](super::Facts::moment) writes it.
    ValidTo,
    /// `kms:ExpirationModel`
    ExpirationModel,
    /// `kms:WrappingAlgorithm`
    WrappingAlgorithm,
    /// `kms:WrappingKeySpec`
    WrappingKeySpec,
    /// `kms:ReEncryptOnSameKey`
    ReEncryptOnSameKey,
    /// `aws:PrincipalArn`
    PrincipalArn,
    /// `aws:PrincipalType`
    PrincipalType,
    /// `aws:PrincipalTag/NAME`; in a policy, its name is case-folded, as that of all tags.
    PrincipalTag(String),
    /// `aws:PrincipalIsAWSService`
    PrincipalIsAwsService,
    /// `aws:userid`
    UserId,
    /// `aws:username`
    UserName,
    /// `aws:TokenIssueTime`
    TokenIssueTime,
    /// `aws:MultiFactorAuthPresent`
    MultiFactorAuthPresent,
    /// `aws:MultiFactorAuthAge`, seconds.
    MultiFactorAuthAge,
    /// `aws:CurrentTime`
    CurrentTime,
    /// `aws:EpochTime`
    EpochTime,
    /// `aws:SourceIp`
    SourceIp,
    /// `aws:SecureTransport`
    SecureTransport,
    /// `aws:UserAgent`
    UserAgent,
    /// `aws:RequestedRegion`
    RequestedRegion,
    /// `aws:RequestTag/NAME`
    RequestTag(String),
    /// `aws:TagKeys`
    TagKeys,
    /// `aws:ResourceTag/NAME`
    ResourceTag(String),
    /// `aws:ResourceAccount`
    ResourceAccount,
    /// `aws:ViaAWSService`
    ViaAwsService,
    /// `aws:CalledVia`
    CalledVia,
    /// `aws:SourceAccount`: of requests that a service makes for itself.
    SourceAccount,
    /// `aws:SourceArn`: of requests that a service makes for itself.
    SourceArn,
    /// `sts:ExternalId`
    ExternalId,
    /// `sts:RoleSessionName`
    RoleSessionName,
    /// A key of a service that coffer does not have, in an identity policy: no request has it, here or in AWS.
    Foreign(String),
}

/// The type of a condition key's value, which determines the operators that can compare it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Text,
    /// A text that may be an ARN.
    TextOrArn,
    Bool,
    Date,
    Number,
    /// Seconds since 1970: a date and a number.
    Seconds,
    /// An IP address.
    Address,
    /// Of a key that no request has.
    Any,
}

/// The requests that have a condition key.
#[derive(Debug, Clone, Copy)]
enum On {
    /// All.
    All,
    /// Those for a key.
    Keys,
    /// Those for a key, and these.
    KeysAnd(&'static str),
    /// Those for these actions.
    These(&'static str),
}

/// A condition key's row.
struct Row {
    /// Its name; of a key with a name of its own at the end, what comes before it.
    name: &'static str,
    key: Key,
    sort: Sort,
    several: bool,
    on: On,
    /// Whether all of these requests have it.
    always: bool,
    values: Choice,
}

const fn row(name: &'static str, key: Key, sort: Sort, on: On, values: Choice) -> Row {
    Row { name, key, sort, several: false, on, always: false, values }
}

impl Row {
    const fn always(mut self) -> Self {
        self.always = true;
        self
    }
    const fn several(mut self) -> Self {
        self.several = true;
        self
    }
}

const WITH_CONTEXT: On = On::These(
    "Encrypt Decrypt ReEncryptFrom ReEncryptTo GenerateDataKey GenerateDataKeyPair \
    GenerateDataKeyPairWithoutPlaintext GenerateDataKeyWithoutPlaintext CreateGrant ExportVolumeKey",
);
const WITH_ALIAS: On = On::These(
    "Decrypt DeriveSharedSecret DescribeKey Encrypt GenerateDataKey GenerateDataKeyPair \
    GenerateDataKeyPairWithoutPlaintext GenerateDataKeyWithoutPlaintext GenerateMac GetPublicKey ReEncryptFrom ReEncryptTo \
    Sign Verify VerifyMac",
);
const WITH_CIPHER: On = On::These(
    "Decrypt Encrypt GenerateDataKey GenerateDataKeyPair GenerateDataKeyPairWithoutPlaintext \
    GenerateDataKeyWithoutPlaintext ReEncryptFrom ReEncryptTo",
);
const WITH_TAGS: On = On::These(
    "kms:CreateKey kms:ReplicateKey kms:TagResource kms:UntagResource sts:AssumeRole sts:TagSession \
    ec2:* ebs:StartSnapshot cloudtrail:* tag:TagResources tag:UntagResources",
);
const CREATES: On = On::KeysAnd("CreateKey");
const GRANTED: On = On::These("CreateGrant");
const SIGNS: On = On::These("Sign Verify");
const ASSUMES: On = On::These("sts:AssumeRole");

static TABLE: [Row; 60] = [
    row("kms:ViaService", Key::ViaService, Sort::Text, On::All, Choice::Via),
    row("kms:CallerAccount", Key::Account, Sort::Text, On::All, choice::ACCOUNT).always(),
    row("kms:EncryptionContext:", Key::Pair(String::new()), Sort::TextOrArn, WITH_CONTEXT, Choice::Pair),
    row("kms:EncryptionContextKeys", Key::ContextKeys, Sort::Text, WITH_CONTEXT, choice::PAIR_NAME).several(),
    row(
        "kms:GrantIsForAWSResource",
        Key::GrantIsForAwsResource,
        Sort::Bool,
        On::These("CreateGrant RevokeGrant"),
        BOOL,
    )
    .always(),
    row("kms:GrantOperations", Key::GrantOperations, Sort::Text, GRANTED, choice::GRANT_OPERATION).several().always(),
    row("kms:GranteePrincipal", Key::GranteePrincipal, Sort::TextOrArn, GRANTED, choice::GRANTEE).always(),
    row("kms:RetiringPrincipal", Key::RetiringPrincipal, Sort::TextOrArn, GRANTED, choice::GRANTEE),
    row("kms:GrantConstraintType", Key::GrantConstraintType, Sort::Text, GRANTED, choice::CONSTRAINT),
    row("kms:KeySpec", Key::KeySpec, Sort::Text, CREATES, choice::SPEC).always(),
    row("kms:CustomerMasterKeySpec", Key::KeySpec, Sort::Text, CREATES, choice::SPEC).always(),
    row("kms:KeyUsage", Key::KeyUsage, Sort::Text, CREATES, choice::USAGE).always(),
    row("kms:CustomerMasterKeyUsage", Key::KeyUsage, Sort::Text, CREATES, choice::USAGE).always(),
    row("kms:KeyOrigin", Key::KeyOrigin, Sort::Text, CREATES, choice::ORIGIN).always(),
    row("kms:MultiRegion", Key::MultiRegion, Sort::Bool, CREATES, BOOL).always(),
    row("kms:MultiRegionKeyType", Key::MultiRegionKeyType, Sort::Text, CREATES, choice::MULTI_REGION),
    row("kms:PrimaryRegion", Key::PrimaryRegion, Sort::Text, On::These("UpdatePrimaryRegion"), choice::REGION).always(),
    row("kms:ReplicaRegion", Key::ReplicaRegion, Sort::Text, On::These("ReplicateKey"), choice::REGION).always(),
    row("kms:EncryptionAlgorithm", Key::EncryptionAlgorithm, Sort::Text, WITH_CIPHER, choice::ENCRYPTION).always(),
    row("kms:SigningAlgorithm", Key::SigningAlgorithm, Sort::Text, SIGNS, choice::SIGNING).always(),
    row("kms:MessageType", Key::MessageType, Sort::Text, SIGNS, choice::MESSAGE).always(),
    row("kms:MacAlgorithm", Key::MacAlgorithm, Sort::Text, On::These("GenerateMac VerifyMac"), choice::MAC).always(),
    row(
        "kms:KeyAgreementAlgorithm",
        Key::KeyAgreementAlgorithm,
        Sort::Text,
        On::These("DeriveSharedSecret"),
        choice::ECDH,
    )
    .always(),
    row(
        "kms:DataKeyPairSpec",
        Key::DataKeyPairSpec,
        Sort::Text,
        On::These("GenerateDataKeyPair GenerateDataKeyPairWithoutPlaintext"),
        choice::PAIR_SPEC,
    )
    .always(),
    row("kms:RequestAlias", Key::RequestAlias, Sort::Text, WITH_ALIAS, choice::ALIAS),
    row("kms:ResourceAliases", Key::ResourceAliases, Sort::Text, On::Keys, choice::ALIAS).several(),
    row(
        "kms:BypassPolicyLockoutSafetyCheck",
        Key::BypassPolicyLockoutSafetyCheck,
        Sort::Bool,
        On::These("CreateKey PutKeyPolicy ReplicateKey"),
        BOOL,
    )
    .always(),
    row(
        "kms:ScheduleKeyDeletionPendingWindowInDays",
        Key::ScheduleKeyDeletionPendingWindowInDays,
        Sort::Number,
        On::These("ScheduleKeyDeletion"),
        Choice::Whole(7.0, 30.0),
    )
    .always(),
    row(
        "kms:RotationPeriodInDays",
        Key::RotationPeriodInDays,
        Sort::Number,
        On::These("EnableKeyRotation"),
        Choice::Whole(90.0, 2560.0),
    ),
    row("kms:ValidTo", Key::ValidTo, Sort::Seconds, On::These("ImportKeyMaterial"), choice::MOMENT),
    row("kms:ExpirationModel", Key::ExpirationModel, Sort::Text, On::These("ImportKeyMaterial"), choice::EXPIRATION)
        .always(),
    row(
        "kms:WrappingAlgorithm",
        Key::WrappingAlgorithm,
        Sort::Text,
        On::These("GetParametersForImport"),
        choice::WRAPPING,
    )
    .always(),
    row(
        "kms:WrappingKeySpec",
        Key::WrappingKeySpec,
        Sort::Text,
        On::These("GetParametersForImport"),
        choice::WRAPPING_SPEC,
    )
    .always(),
    row("kms:ReEncryptOnSameKey", Key::ReEncryptOnSameKey, Sort::Bool, On::These("ReEncryptFrom ReEncryptTo"), BOOL)
        .always(),
    row("aws:PrincipalAccount", Key::Account, Sort::Text, On::All, choice::ACCOUNT).always(),
    row("aws:PrincipalArn", Key::PrincipalArn, Sort::TextOrArn, On::All, choice::PRINCIPAL).always(),
    row("aws:PrincipalType", Key::PrincipalType, Sort::Text, On::All, choice::PRINCIPAL_TYPE),
    row("aws:PrincipalTag/", Key::PrincipalTag(String::new()), Sort::Text, On::All, choice::TAG),
    row("aws:PrincipalIsAWSService", Key::PrincipalIsAwsService, Sort::Bool, On::All, BOOL).always(),
    row("aws:userid", Key::UserId, Sort::Text, On::All, choice::NOT_EMPTY),
    row("aws:username", Key::UserName, Sort::Text, On::All, choice::USER),
    row("aws:TokenIssueTime", Key::TokenIssueTime, Sort::Date, On::All, choice::MOMENT),
    row("aws:MultiFactorAuthPresent", Key::MultiFactorAuthPresent, Sort::Bool, On::All, BOOL),
    row("aws:MultiFactorAuthAge", Key::MultiFactorAuthAge, Sort::Number, On::All, Choice::Whole(0.0, 1e9)),
    row("aws:CurrentTime", Key::CurrentTime, Sort::Date, On::All, choice::MOMENT).always(),
    row("aws:EpochTime", Key::EpochTime, Sort::Seconds, On::All, choice::MOMENT).always(),
    row("aws:SourceIp", Key::SourceIp, Sort::Address, On::All, choice::NOT_EMPTY),
    row("aws:SecureTransport", Key::SecureTransport, Sort::Bool, On::All, BOOL),
    row("aws:UserAgent", Key::UserAgent, Sort::Text, On::All, choice::NOT_EMPTY),
    row("aws:RequestedRegion", Key::RequestedRegion, Sort::Text, On::All, choice::REGION),
    row("aws:RequestTag/", Key::RequestTag(String::new()), Sort::Text, WITH_TAGS, choice::TAG),
    row("aws:TagKeys", Key::TagKeys, Sort::Text, WITH_TAGS, choice::TAG_KEY).several(),
    row(
        "aws:ResourceTag/",
        Key::ResourceTag(String::new()),
        Sort::Text,
        On::KeysAnd("ec2:* ebs:* cloudtrail:* sts:AssumeRole"),
        choice::TAG,
    ),
    row("aws:ResourceAccount", Key::ResourceAccount, Sort::Text, On::All, choice::ACCOUNT),
    row("aws:ViaAWSService", Key::ViaAwsService, Sort::Bool, On::All, BOOL).always(),
    row("aws:CalledVia", Key::CalledVia, Sort::Text, On::All, choice::CALLED_VIA).several(),
    row("aws:SourceAccount", Key::SourceAccount, Sort::Text, On::All, choice::ACCOUNT),
    row("aws:SourceArn", Key::SourceArn, Sort::TextOrArn, On::All, choice::ARN),
    row("sts:ExternalId", Key::ExternalId, Sort::Text, ASSUMES, choice::NOT_EMPTY),
    row("sts:RoleSessionName", Key::RoleSessionName, Sort::Text, ASSUMES, choice::USER).always(),
];

/// AWS's condition keys for which no request here has a value. They are refused, because a Deny on them would never match.
const ELSEWHERE: &str = "\
    aws:CalledViaFirst aws:CalledViaLast aws:ChatbotSourceArn aws:Ec2InstanceSourcePrivateIPv4 aws:Ec2InstanceSourceVpc \
    aws:FederatedProvider aws:PrincipalOrgID aws:PrincipalOrgPaths aws:PrincipalServiceName \
    aws:PrincipalServiceNamesList aws:Referer aws:ResourceOrgID aws:ResourceOrgPaths aws:SourceIdentity aws:SourceOrgID \
    aws:SourceOrgPaths aws:SourceOwner aws:SourceVpc aws:SourceVpcArn aws:SourceVpce aws:ViaAWSMCPService \
    aws:VpcSourceIp aws:VpceAccount aws:VpceOrgID aws:VpceOrgPaths ec2:RoleDelivery ec2:SourceInstanceARN \
    kms:RecipientAttestation:* sts:AWSServiceName sts:DurationSeconds sts:SourceIdentity sts:TransitiveTagKeys";

impl Key {
    /// The condition key of that name, case-insensitively.
    ///
    /// # Errors
    /// Why there is none: AWS has it but this build cannot evaluate it, or it is unknown.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        let folded = fold_case(name);
        for row in &TABLE {
            let is_same = |text: &&str| text.eq_ignore_ascii_case(row.name);
            let tail = || {
                let (_, tail) = folded.get(..row.name.len()).filter(is_same).map(|p| folded.split_at(p.len()))?;
                Some(tail.to_owned()).filter(|tail| !tail.is_empty())
            };
            let found = match &row.key {
                Self::Pair(_) => tail().map(Self::Pair),
                Self::PrincipalTag(_) => tail().map(Self::PrincipalTag),
                Self::RequestTag(_) => tail().map(Self::RequestTag),
                Self::ResourceTag(_) => tail().map(Self::ResourceTag),
                key => is_same(&&*folded).then(|| key.clone()),
            };
            if let Some(key) = found {
                return Ok(key);
            }
        }
        let known: Vec<String> = TABLE.iter().map(Row::shown).collect();
        let why = match ELSEWHERE.split_whitespace().any(|k| wild(k, name, true)) {
            true => "is an AWS condition key that coffer does not support",
            false => "is not a known condition key",
        };
        Err(format!("{name:?} {why}; supported keys: {}", known.join(", ")))
    }

    /// As [`Key::parse`], in a policy of that kind: one of identities can have keys of services that coffer does not have.
    pub(super) fn parse_in(kind: Kind, name: &str) -> Result<Self, String> {
        let service = name.split_once(':').map_or("", |(service, _)| service);
        let good = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let own = service.eq_ignore_ascii_case("aws") || Kind::knows(service);
        match kind.has_other_services() && good(service) && !own {
            true => Ok(Self::Foreign(fold_case(name))),
            false => Self::parse(name),
        }
    }

    fn row(&self) -> Option<&'static Row> {
        TABLE.iter().find(|row| std::mem::discriminant(&row.key) == std::mem::discriminant(self))
    }

    /// Whether a request can have several values for it.
    pub(super) fn has_several(&self) -> bool {
        self.row().is_some_and(|row| row.several)
    }

    /// Whether it can be a policy variable: it has one value, and one name for it.
    pub(super) fn can_be_a_variable(&self) -> bool {
        !self.has_several() && !matches!(self, Self::ViaService | Self::Pair(_) | Self::Foreign(_))
    }

    pub(super) fn sort(&self) -> Sort {
        self.row().map_or(Sort::Any, |row| row.sort)
    }

    /// The values that it can have.
    pub(super) fn choice(&self) -> &'static Choice {
        self.row().map_or(&choice::ANY, |row| &row.values)
    }

    /// What is wrong with a value that this key can never be equal to. Parsing a policy refuses these; putting one also refuses
    /// those that [`Key::values`] excludes.
    pub(super) fn check_text(&self, value: &str, any_case: bool) -> Result<(), &'static str> {
        let known = || self.choice().knows(value, any_case);
        match self {
            Self::GrantOperations if !known() => Err("is not an operation that a grant can allow"),
            Self::PrincipalType if !known() => Err("is not a type of principal"),
            Self::PrincipalArn if !value.starts_with("arn:") => Err("is not an ARN"),
            Self::Account if !is_account(value) => Err("is not an account id of 12 digits"),
            Self::ViaService if !is_service(value, any_case) => {
                Err("is not a service name such as ec2.coffer or ec2.us-east-1.amazonaws.com")
            }
            _ if self.sort() == Sort::Bool && !known() => Err("is neither true nor false"),
            _ => Ok(()),
        }
    }

    /// Whether there are requests without it.
    pub(super) fn may_be_absent(&self) -> bool {
        !self.row().is_some_and(|row| row.always && matches!(row.on, On::All))
    }

    /// Whether there are requests for an action (`kms:Decrypt`) without it.
    pub(super) fn may_be_absent_with(&self, action: &str) -> bool {
        // The ARN of a key has them.
        let is_implied = matches!(self, Self::ResourceAccount | Self::RequestedRegion) && uses_a_key(action);
        !is_implied && !self.row().is_some_and(|row| row.always && row.on.has(action))
    }

    /// Whether requests for an action may have it.
    pub(super) fn goes_with(&self, action: &str) -> bool {
        match self {
            Self::Foreign(_) => action.split_once(':').is_none_or(|(service, _)| !Kind::knows(service)),
            key => key.row().is_some_and(|row| row.on.has(action) && row.is_of(action)),
        }
    }

    /// What is wrong with the name of a pair or a tag that no request has, or that does not mean what it seems to.
    pub(super) fn check_name(&self) -> Result<(), &'static str> {
        let (name, longest) = match self {
            Self::Pair(name) => (name, MAX_PAIR),
            Self::PrincipalTag(name) | Self::RequestTag(name) | Self::ResourceTag(name) => (name, choice::MAX_TAG_KEY),
            _ => return Ok(()),
        };
        let is_pair = matches!(self, Self::Pair(_));
        if name.trim() != name {
            Err(if is_pair {
                "the name of the pair begins or ends with a blank"
            } else {
                "the name of the tag begins or ends with a blank"
            })
        } else if name.contains(['*', '?']) {
            Err(match is_pair {
                true => "a wildcard in the name of a pair is literal: name the pair, or use kms:EncryptionContextKeys",
                false => "a wildcard in the name of a tag is literal: name the tag, or use aws:TagKeys",
            })
        } else if name.len() > longest {
            Err(match is_pair {
                true => "the name of the pair is longer than an encryption context allows",
                false => "the name of the tag is longer than the 128 characters of a tag",
            })
        } else {
            Ok(())
        }
    }
}

impl Row {
    /// Whether a key of one service can be in requests for an action: those of `kms` are in those of no other.
    fn is_of(&self, action: &str) -> bool {
        match self.name.split_once(':') {
            Some(("aws", _)) | None => true,
            Some((service, _)) => action.split_once(':').is_some_and(|(of, _)| of == service),
        }
    }

    fn shown(&self) -> String {
        let end = if self.name.ends_with([':', '/']) { "NAME" } else { "" };
        format!("{}{end}", self.name)
    }
}

impl On {
    /// Whether requests for an action can have the key. The names of these actions are those of `kms`, unless they have a service.
    fn has(self, action: &str) -> bool {
        let these = |names: &str| {
            names.split_whitespace().any(|name| match name.contains(':') {
                true => wild(name, action, false),
                false => action.strip_prefix("kms:") == Some(name),
            })
        };
        match self {
            Self::All => true,
            Self::Keys => uses_a_key(action),
            Self::KeysAnd(names) => uses_a_key(action) || these(names),
            Self::These(names) => these(names),
        }
    }
}

/// The most bytes for name and value of the only pair of an encryption context: the canonical form also has the number of pairs
/// and both lengths.
pub(super) const MAX_PAIR: usize = MAX_CONTEXT - 12;

#[cfg(test)]
mod tests {
    use super::*;

    /// A row about an action that does not exist would refuse what can match.
    #[test]
    fn each_row_is_found_by_its_name_and_is_about_actions_that_exist() {
        let actions: Vec<String> = Kind::Identity.actions().collect();
        for row in &TABLE {
            let name = if row.name.ends_with([':', '/']) { format!("{}x", row.name) } else { row.name.to_owned() };
            let key = Key::parse(&name.to_uppercase()).unwrap();
            assert_eq!(std::mem::discriminant(&key), std::mem::discriminant(&row.key), "{name}");
            assert!(actions.iter().any(|a| key.goes_with(a)), "{name} goes with no action");
            assert!(!ELSEWHERE.split_whitespace().any(|k| wild(k, &name, true)), "{name} is not elsewhere");
            let (On::These(listed) | On::KeysAnd(listed)) = row.on else { continue };
            for one in listed.split_whitespace() {
                let full = if one.contains(':') { one.to_owned() } else { format!("kms:{one}") };
                assert!(actions.iter().any(|a| wild(&full, a, false)), "{name}: {one}");
            }
        }
        let mut names: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn only_operations_on_a_key_have_its_properties() {
        for (action, has) in [
            ("kms:Decrypt", true),
            ("kms:CreateAlias", true),
            ("kms:CreateKey", true),
            ("kms:ListKeys", false),
            ("kms:GenerateRandom", false),
            ("ec2:CreateVolume", false),
        ] {
            assert_eq!(Key::KeySpec.goes_with(action), has, "{action}");
        }
        assert!(!Key::ResourceAliases.goes_with("kms:CreateKey"));
        assert!(Key::Foreign("s3:prefix".into()).goes_with("s3:ListBucket"));
        assert!(!Key::Foreign("s3:prefix".into()).goes_with("kms:Decrypt"));
    }
}
