//! The vocabulary of policies: the actions, condition keys and services of AWS, and which of them this build can evaluate. A
//! word in none of these lists is misspelt: a Deny with it would never match, so it is refused.
//!
//! Sources: Service Authorization Reference, "Actions, resources, and condition keys for AWS Key Management Service"; KMS
//! Developer Guide, "AWS KMS condition keys"; IAM User Guide, "AWS global condition context keys".

use super::arn::is_account;
use super::forms::{Form, Reading};
use super::pattern::{fold_case, wild};
use crate::cipher::wrap::MAX_CONTEXT;

/// The name of coffer's volume service, in `kms:ViaService` and as a service principal. Policies may also use the name of AWS's
/// volume service: `ec2.REGION.amazonaws.com`, and `ec2.amazonaws.com` as a principal.
pub const VOLUME_SERVICE: &str = "ec2.coffer";

/// The export of a volume's plaintext data key (`coffer volume export-key`): coffer's own action, which AWS does not have.
pub const EXPORT_VOLUME_KEY: &str = "ExportVolumeKey";

/// AWS's actions, whether this build implements the operation or not; then coffer's own.
const ACTIONS: [&str; 56] = [
    "CancelKeyDeletion",
    "ConnectCustomKeyStore",
    "CreateAlias",
    "CreateCustomKeyStore",
    "CreateGrant",
    "CreateKey",
    "Decrypt",
    "DeleteAlias",
    "DeleteCustomKeyStore",
    "DeleteImportedKeyMaterial",
    "DeriveSharedSecret",
    "DescribeCustomKeyStores",
    "DescribeKey",
    "DisableKey",
    "DisableKeyRotation",
    "DisconnectCustomKeyStore",
    "EnableKey",
    "EnableKeyRotation",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "GenerateRandom",
    "GetKeyPolicy",
    "GetKeyRotationStatus",
    "GetParametersForImport",
    "GetPublicKey",
    "ImportKeyMaterial",
    "ListAliases",
    "ListGrants",
    "ListKeyPolicies",
    "ListKeyRotations",
    "ListKeys",
    "ListResourceTags",
    "ListRetirableGrants",
    "PutKeyPolicy",
    "ReEncryptFrom",
    "ReEncryptTo",
    "ReplicateKey",
    "RetireGrant",
    "RevokeGrant",
    "RotateKeyOnDemand",
    "ScheduleKeyDeletion",
    "Sign",
    "SynchronizeMultiRegionKey",
    "TagResource",
    "UntagResource",
    "UpdateAlias",
    "UpdateCustomKeyStore",
    "UpdateKeyDescription",
    "UpdatePrimaryRegion",
    "Verify",
    "VerifyMac",
    EXPORT_VOLUME_KEY,
];

/// Whether a pattern such as `kms:Decrypt` or `kms:*Grant*` matches at least one action.
pub(super) fn names_an_action(pattern: &str) -> bool {
    pattern == "*" || ACTIONS.iter().any(|a| wild(pattern, &format!("kms:{a}"), true))
}

/// Whether an action could match a pattern: the part before its first wildcard is a prefix of one.
pub(super) fn could_name_an_action(pattern: &str) -> bool {
    match pattern.find(['*', '?']) {
        Some(at) => names_an_action(&format!("{}*", &pattern[..at])),
        None => names_an_action(pattern),
    }
}

/// Whether a statement applies to at least one action, so that it can match at all.
pub(super) fn is_about_an_action(covers: impl Fn(&str) -> bool) -> bool {
    ACTIONS.iter().any(|a| covers(&format!("kms:{a}")))
}

/// The operations that a grant can allow: the values of `kms:GrantOperations`.
pub(super) const GRANT_OPERATIONS: [&str; 9] = [
    "CreateGrant",
    "Decrypt",
    "DescribeKey",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "ReEncryptFrom",
    "ReEncryptTo",
    "RetireGrant",
];

/// Operations that a grant can allow only in AWS, for types of keys that coffer does not have.
pub(super) const GRANT_OPERATIONS_ELSEWHERE: [&str; 8] = [
    "DeriveSharedSecret",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateMac",
    "GetPublicKey",
    "Sign",
    "Verify",
    "VerifyMac",
];

const PRINCIPAL_TYPES: [&str; 2] = ["Account", "User"];
const PRINCIPAL_TYPES_ELSEWHERE: [&str; 3] = ["Anonymous", "AssumedRole", "FederatedUser"];

/// AWS services that use keys on behalf of callers (KMS Developer Guide, "kms:ViaService"); coffer is only `ec2`.
const SERVICES: &str = "airflow appflow apprunner athena auditmanager backup backup-gateway cassandra codeartifact \
    codeguru-reviewer comprehend connect directoryservice dms dynamodb ec2 ecr eks elasticfilesystem es finspace firehose \
    forecast fsx geo glue groundstation healthlake importexport iotsitewise kafka kendra kinesis kinesisvideo lambda lex \
    license-manager lookoutequipment lookoutmetrics lookoutvision macie malware-protection managedblockchain mediatailor \
    memorydb mgn monitron mq nimble omics profile proton qldb rds redshift redshift-serverless rekognition s3 sagemaker \
    secretsmanager ses sns sqlworkbench sqs ssm ssm-contacts ssm-incidents storagegateway timestream translate wisdom \
    workmail workspaces workspaces-web xray";

/// A condition key that this build can evaluate for every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    ViaService,
    /// `kms:CallerAccount` and `aws:PrincipalAccount` are the same here.
    Account,
    /// The value of one pair of the encryption context; its name is case-folded ([`fold_case`]).
    Pair(String),
    ContextKeys,
    GrantIsForAwsResource,
    GrantOperations,
    PrincipalArn,
    PrincipalType,
    UserName,
    CurrentTime,
    EpochTime,
}

/// The type of a condition key's value, which determines the operators that can compare it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Text,
    /// A text that may be an ARN.
    TextOrArn,
    Bool,
    Date,
    /// Seconds since 1970: a date and a number.
    Seconds,
}

/// The prefix of condition keys for a pair of the encryption context.
const CONTEXT: &str = "kms:encryptioncontext:";

const KEYS: [(&str, Key); 11] = [
    ("kms:ViaService", Key::ViaService),
    ("kms:CallerAccount", Key::Account),
    ("aws:PrincipalAccount", Key::Account),
    ("kms:EncryptionContextKeys", Key::ContextKeys),
    ("kms:GrantIsForAWSResource", Key::GrantIsForAwsResource),
    ("kms:GrantOperations", Key::GrantOperations),
    ("aws:PrincipalArn", Key::PrincipalArn),
    ("aws:PrincipalType", Key::PrincipalType),
    ("aws:username", Key::UserName),
    ("aws:CurrentTime", Key::CurrentTime),
    ("aws:EpochTime", Key::EpochTime),
];

/// AWS's condition keys for which no request here has a value. They are refused, because a Deny on them would never match.
const ELSEWHERE: [&str; 74] = [
    "aws:CalledVia",
    "aws:CalledViaFirst",
    "aws:CalledViaLast",
    "aws:ChatbotSourceArn",
    "aws:Ec2InstanceSourcePrivateIPv4",
    "aws:Ec2InstanceSourceVpc",
    "aws:FederatedProvider",
    "aws:MultiFactorAuthAge",
    "aws:MultiFactorAuthPresent",
    "aws:PrincipalIsAWSService",
    "aws:PrincipalOrgID",
    "aws:PrincipalOrgPaths",
    "aws:PrincipalServiceName",
    "aws:PrincipalServiceNamesList",
    "aws:PrincipalTag/*",
    "aws:Referer",
    "aws:RequestTag/*",
    "aws:RequestedRegion",
    "aws:ResourceAccount",
    "aws:ResourceOrgID",
    "aws:ResourceOrgPaths",
    "aws:ResourceTag/*",
    "aws:SecureTransport",
    "aws:SourceAccount",
    "aws:SourceArn",
    "aws:SourceIdentity",
    "aws:SourceIp",
    "aws:SourceOrgID",
    "aws:SourceOrgPaths",
    "aws:SourceOwner",
    "aws:SourceVpc",
    "aws:SourceVpcArn",
    "aws:SourceVpce",
    "aws:TagKeys",
    "aws:TokenIssueTime",
    "aws:UserAgent",
    "aws:ViaAWSMCPService",
    "aws:ViaAWSService",
    "aws:VpcSourceIp",
    "aws:VpceAccount",
    "aws:VpceOrgID",
    "aws:VpceOrgPaths",
    "aws:userid",
    "ec2:RoleDelivery",
    "ec2:SourceInstanceARN",
    "kms:BypassPolicyLockoutSafetyCheck",
    "kms:CustomerMasterKeySpec",
    "kms:CustomerMasterKeyUsage",
    "kms:DataKeyPairSpec",
    "kms:EncryptionAlgorithm",
    "kms:ExpirationModel",
    "kms:GrantConstraintType",
    "kms:GranteePrincipal",
    "kms:KeyAgreementAlgorithm",
    "kms:KeyOrigin",
    "kms:KeySpec",
    "kms:KeyUsage",
    "kms:MacAlgorithm",
    "kms:MessageType",
    "kms:MultiRegion",
    "kms:MultiRegionKeyType",
    "kms:PrimaryRegion",
    "kms:ReEncryptOnSameKey",
    "kms:RecipientAttestation:*",
    "kms:ReplicaRegion",
    "kms:RequestAlias",
    "kms:ResourceAliases",
    "kms:RetiringPrincipal",
    "kms:RotationPeriodInDays",
    "kms:ScheduleKeyDeletionPendingWindowInDays",
    "kms:SigningAlgorithm",
    "kms:ValidTo",
    "kms:WrappingAlgorithm",
    "kms:WrappingKeySpec",
];

impl Key {
    /// The condition key of that name, case-insensitively.
    ///
    /// # Errors
    /// Why there is none: AWS has it but this build cannot evaluate it, or it is unknown.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        let folded = fold_case(name);
        if let Some(pair) = folded.strip_prefix(CONTEXT).filter(|p| !p.is_empty()) {
            return Ok(Self::Pair(pair.to_owned()));
        }
        if let Some((_, key)) = KEYS.iter().find(|(known, _)| known.eq_ignore_ascii_case(&folded)) {
            return Ok(key.clone());
        }
        let known: Vec<&str> = KEYS.iter().map(|(known, _)| *known).chain(["kms:EncryptionContext:NAME"]).collect();
        let why = match ELSEWHERE.iter().any(|k| wild(k, name, true)) {
            true => "is an AWS condition key that coffer does not support",
            false => "is not a known condition key",
        };
        Err(format!("{name:?} {why}; supported keys: {}", known.join(", ")))
    }

    /// Whether a request can have several values for it.
    pub(super) const fn has_several(&self) -> bool {
        matches!(self, Self::ContextKeys | Self::GrantOperations)
    }

    pub(super) const fn sort(&self) -> Sort {
        match self {
            Self::PrincipalArn | Self::Pair(_) => Sort::TextOrArn,
            Self::GrantIsForAwsResource => Sort::Bool,
            Self::CurrentTime => Sort::Date,
            Self::EpochTime => Sort::Seconds,
            _ => Sort::Text,
        }
    }

    /// What is wrong with a value that this key can never be equal to. Parsing a policy refuses these; putting one also refuses
    /// those that [`Key::values`] excludes.
    pub(super) fn check_text(&self, value: &str, any_case: bool) -> Result<(), &'static str> {
        let same = |word: &str| if any_case { word.eq_ignore_ascii_case(value) } else { word == value };
        match self {
            Self::GrantOperations if !GRANT_OPERATIONS.iter().chain(&GRANT_OPERATIONS_ELSEWHERE).any(|w| same(w)) => {
                Err("is not an operation that a grant can allow")
            }
            Self::PrincipalType if !PRINCIPAL_TYPES.iter().chain(&PRINCIPAL_TYPES_ELSEWHERE).any(|w| same(w)) => {
                Err("is not a type of principal")
            }
            Self::PrincipalArn if !value.starts_with("arn:") => Err("is not an ARN"),
            Self::Account if !is_account(value) => Err("is not an account id of 12 digits"),
            Self::ViaService if !is_service(value, any_case) => {
                Err("is not a service name such as ec2.coffer or ec2.us-east-1.amazonaws.com")
            }
            Self::GrantIsForAwsResource if !["true", "false"].iter().any(|w| same(w)) => {
                Err("is neither true nor false")
            }
            _ => Ok(()),
        }
    }
}

/// The values that a condition key can have.
pub(super) struct Values {
    /// In a request here.
    pub(super) here: Vec<Form>,
    /// Only in AWS: not a mistake, but a condition needs another value beside it to hold.
    pub(super) elsewhere: Vec<Form>,
    /// The longest, bytes.
    pub(super) longest: usize,
    /// A description.
    pub(super) words: String,
}

impl Key {
    /// The values that it can have in requests for a Region's keys, if it is a text. `value` is the policy's value.
    pub(super) fn values(&self, region: &str, reading: Reading, value: &str) -> Values {
        let forms = |all: &[&str]| -> Vec<Form> { all.iter().map(|notation| Form::of(notation)).collect() };
        let of = |here: &[&str], longest, words: &str| Values {
            here: forms(here),
            elsewhere: Vec::new(),
            longest,
            words: words.to_owned(),
        };
        let one_of = |here: &[&str], elsewhere: &[&str]| Values {
            elsewhere: forms(elsewhere),
            ..of(here, MAX_ARN, &here.join(" or "))
        };
        match self {
            Self::Account => of(&["%a"], MAX_ARN, "an account of 12 digits"),
            Self::PrincipalArn => {
                of(&PRINCIPALS, MAX_ARN, &PRINCIPALS.join(" or ").replace("%a", "ACCOUNT").replace("%n", "NAME"))
            }
            Self::UserName => of(&["%u"], MAX_USER, "a name of 1 to 64 letters, digits and + = , . @ _ -"),
            Self::GrantOperations => one_of(&GRANT_OPERATIONS, &GRANT_OPERATIONS_ELSEWHERE),
            Self::PrincipalType => one_of(&PRINCIPAL_TYPES, &PRINCIPAL_TYPES_ELSEWHERE),
            Self::GrantIsForAwsResource => one_of(&["true", "false"], &[]),
            Self::ContextKeys => of(&["%x"], MAX_PAIR, "the name of a pair, not empty, of at most 8 KiB"),
            Self::Pair(name) if reading == Reading::Arn => of(
                &["%c:%c:%c:%c:%c:%t"],
                MAX_PAIR.saturating_sub(name.len()),
                "an ARN of at most 8 KiB, its name included",
            ),
            Self::Pair(name) => {
                of(&["%t"], MAX_PAIR.saturating_sub(name.len()), "a text of at most 8 KiB, its name included")
            }
            Self::ViaService => {
                let own = volume_service_in(region);
                let service = value.split('.').next().filter(|s| SERVICES.split_whitespace().any(|known| known == *s));
                let known = |s: &str| ["", ".cn"].map(|end| Form::of(&format!("{s}.%r.amazonaws.com{end}"))).to_vec();
                Values { elsewhere: service.map(known).unwrap_or_default(), ..one_of(&[&own[0], &own[1]], &[]) }
            }
            // Times are compared as numbers.
            Self::CurrentTime | Self::EpochTime => of(&["%x"], MAX_ARN, "a moment"),
        }
    }

    /// Whether there are requests without it.
    pub(super) const fn may_be_absent(&self) -> bool {
        !matches!(self, Self::Account | Self::PrincipalArn | Self::CurrentTime | Self::EpochTime)
    }

    /// Whether there are requests for an action without it.
    pub(super) fn may_be_absent_with(&self, action: &str) -> bool {
        let of_grants = matches!(self, Self::GrantIsForAwsResource | Self::GrantOperations);
        self.may_be_absent() && !(of_grants && self.goes_with(action))
    }

    /// Whether requests for an action may have it.
    pub(super) fn goes_with(&self, action: &str) -> bool {
        let is = |prefixes: &[&str]| prefixes.iter().any(|p| action.starts_with(p));
        match self {
            Self::Pair(_) | Self::ContextKeys => {
                is(&["Encrypt", "Decrypt", "ReEncrypt", "GenerateDataKey", "CreateGrant", EXPORT_VOLUME_KEY])
            }
            Self::GrantIsForAwsResource => is(&["CreateGrant", "RevokeGrant"]),
            Self::GrantOperations => is(&["CreateGrant"]),
            _ => true,
        }
    }

    /// What is wrong with the name of a pair that no request has, or that does not mean what it seems to.
    pub(super) fn check_name(&self) -> Result<(), &'static str> {
        match self {
            Self::Pair(name) if name.trim() != name => Err("the name of the pair begins or ends with a blank"),
            Self::Pair(name) if name.contains(['*', '?']) => {
                Err("a wildcard in the name of a pair is literal: name the pair, or use kms:EncryptionContextKeys")
            }
            Self::Pair(name) if name.len() > MAX_PAIR => {
                Err("the name of the pair is longer than an encryption context allows")
            }
            _ => Ok(()),
        }
    }
}

/// The longest ARN, bytes.
const MAX_ARN: usize = 2048;
/// The longest name of a user.
const MAX_USER: usize = 64;
/// The most bytes for name and value of the only pair of an encryption context: the canonical form also has the number of pairs
/// and both lengths.
const MAX_PAIR: usize = MAX_CONTEXT - 12;

/// Principals, as requests and grants name them; a session of a role has the role's.
const PRINCIPALS: [&str; 4] = [
    "arn:aws:iam::%a:root",
    "arn:aws:iam::%a:user/%n",
    "arn:aws:iam::%a:role/%n",
    "arn:aws:iam::%a:service/ec2.coffer",
];

/// Whether a text consists of lower-case letters, digits and dashes, as Regions and names of services do.
fn is_label(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Whether a text has the form of a `kms:ViaService`: `ec2.coffer`, or `NAME.REGION.amazonaws.com`.
fn is_service(name: &str, any_case: bool) -> bool {
    let name = if any_case { name.to_ascii_lowercase() } else { name.to_owned() };
    let rest = name.strip_suffix(".amazonaws.com").or_else(|| name.strip_suffix(".amazonaws.com.cn"));
    let labels: Vec<&str> = rest.map(|r| r.split('.').collect()).unwrap_or_default();
    name == VOLUME_SERVICE || (labels.len() >= 2 && labels.iter().all(|l| is_label(l)))
}

/// The volume service's names in a Region, as values of `kms:ViaService`: its own, and that of AWS's volume service.
pub(super) fn volume_service_in(region: &str) -> [String; 2] {
    [VOLUME_SERVICE.to_owned(), format!("ec2.{region}.amazonaws.com")]
}

/// Whether a service principal of a policy exists: the volume service, by its own or AWS's name, in any Region. AWS also
/// refuses unknown services.
pub(super) fn is_service_principal(name: &str) -> bool {
    let regional = name.strip_prefix("ec2.").and_then(|n| n.strip_suffix(".amazonaws.com"));
    name == VOLUME_SERVICE || name == "ec2.amazonaws.com" || regional.is_some_and(is_label)
}

/// Whether a service principal is the volume service of this Region.
pub(super) fn is_volume_service(name: &str, region: &str) -> bool {
    name == "ec2.amazonaws.com" || volume_service_in(region).iter().any(|own| own == name)
}
