//! The words that a policy may use: the actions, condition keys and services that AWS has, and which of them this build can
//! evaluate. A word that is in none of these lists is misspelt: a Deny with it would never fire, so it is refused when it is put.
//!
//! Sources: Service Authorization Reference, "Actions, resources, and condition keys for AWS Key Management Service"; KMS
//! Developer Guide, "AWS KMS condition keys"; IAM User Guide, "AWS global condition context keys".

use super::arn::is_account;
use super::forms::{Form, Reading};
use super::pattern::{fold_case, wild};
use crate::cipher::wrap::MAX_CONTEXT;

/// The name under which coffer's volumes use keys: in `kms:ViaService`, and as a service principal. Policies may also name it as
/// AWS's volume service: `ec2.REGION.amazonaws.com`, and `ec2.amazonaws.com` as a principal.
pub const VOLUME_SERVICE: &str = "ec2.coffer";

/// What asks for a volume's data key in clear (`coffer volume export-key`): coffer's own, AWS has no such operation.
pub const EXPORT_VOLUME_KEY: &str = "ExportVolumeKey";

/// AWS's actions, whether this build has the operation or not; then coffer's own.
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

/// Whether a pattern such as `kms:Decrypt` or `kms:*Grant*` covers at least one action.
pub(super) fn names_an_action(pattern: &str) -> bool {
    pattern == "*" || ACTIONS.iter().any(|a| wild(pattern, &format!("kms:{a}"), true))
}

/// Whether there could be an action that a pattern covers: what stands before its first wildcard begins one.
pub(super) fn could_name_an_action(pattern: &str) -> bool {
    match pattern.find(['*', '?']) {
        Some(at) => names_an_action(&format!("{}*", &pattern[..at])),
        None => names_an_action(pattern),
    }
}

/// Whether at least one action is left that a statement is about, so that it can ever be asked about.
pub(super) fn is_about_an_action(covers: impl Fn(&str) -> bool) -> bool {
    ACTIONS.iter().any(|a| covers(&format!("kms:{a}")))
}

/// What a grant may allow here: the values of `kms:GrantOperations`.
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

/// What a grant may allow in AWS alone, with keys that there are none of here.
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

/// Services of AWS that use keys for their callers (KMS Developer Guide, "kms:ViaService"): of these, coffer is `ec2` alone.
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
    /// The value of one pair of the encryption context; its name as [`fold_case`] has it.
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

/// What a condition key holds: says which operators can compare it.
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

/// What the condition key of one pair of the encryption context begins with.
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

/// Keys of AWS that no request here has a value for. Absent, they would make a Deny silent; so they are refused.
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
    /// The key of that name, whatever its case.
    ///
    /// # Errors
    /// Why there is none: one that AWS has and this build cannot evaluate, or one that nobody knows.
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
            true => "is a condition key of AWS that this build cannot evaluate",
            false => "is no condition key that this build knows",
        };
        Err(format!("{name:?} {why}; it knows {}", known.join(", ")))
    }

    /// Whether a request may have several values of it.
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

    /// What is wrong with a text that this key is to be equal to, if it never can be. This is what reading a policy refuses;
    /// what putting one refuses as well is said by [`Key::values`].
    pub(super) fn check_text(&self, value: &str, any_case: bool) -> Result<(), &'static str> {
        let same = |word: &str| if any_case { word.eq_ignore_ascii_case(value) } else { word == value };
        match self {
            Self::GrantOperations if !GRANT_OPERATIONS.iter().chain(&GRANT_OPERATIONS_ELSEWHERE).any(|w| same(w)) => {
                Err("is no operation of a grant")
            }
            Self::PrincipalType if !PRINCIPAL_TYPES.iter().chain(&PRINCIPAL_TYPES_ELSEWHERE).any(|w| same(w)) => {
                Err("is no type of a principal")
            }
            Self::PrincipalArn if !value.starts_with("arn:") => Err("is no ARN"),
            Self::Account if !is_account(value) => Err("is no account of 12 digits"),
            Self::ViaService if !is_service(value, any_case) => {
                Err("is no service, as ec2.coffer and ec2.us-east-1.amazonaws.com are")
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
    /// In AWS alone: no mistake, but it takes another value beside it to make a condition hold.
    pub(super) elsewhere: Vec<Form>,
    /// The longest, bytes.
    pub(super) longest: usize,
    /// What it is, in words.
    pub(super) words: String,
}

impl Key {
    /// The values that it can have in requests about a Region's keys, if it is a text. `value` is what a policy wants it to be.
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
            // Moments are compared as numbers.
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

    /// What is wrong with the name of a pair that no request has, or that means something else than it says.
    pub(super) fn check_name(&self) -> Result<(), &'static str> {
        match self {
            Self::Pair(name) if name.trim() != name => Err("the name of the pair begins or ends with a blank"),
            Self::Pair(name) if name.contains(['*', '?']) => Err(
                "a wildcard in the name of a pair stands for itself: name the pair, or use kms:EncryptionContextKeys",
            ),
            Self::Pair(name) if name.len() > MAX_PAIR => Err("no encryption context has a pair with so long a name"),
            _ => Ok(()),
        }
    }
}

/// The longest ARN, bytes.
const MAX_ARN: usize = 2048;
/// The longest name of a user.
const MAX_USER: usize = 64;
/// What the only pair of an encryption context has for its name and its value: the canonical form counts the pairs, and the
/// lengths of both.
const MAX_PAIR: usize = MAX_CONTEXT - 12;

/// Principals, as requests and grants name them; sessions of a role have the role's.
const PRINCIPALS: [&str; 4] = [
    "arn:aws:iam::%a:root",
    "arn:aws:iam::%a:user/%n",
    "arn:aws:iam::%a:role/%n",
    "arn:aws:iam::%a:service/ec2.coffer",
];

/// Whether a text is made of lower-case letters, digits and dashes, as Regions and the names of services are.
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

/// The volume service's names in a Region, as a value of `kms:ViaService`: its own, and that of AWS's volume service.
pub(super) fn volume_service_in(region: &str) -> [String; 2] {
    [VOLUME_SERVICE.to_owned(), format!("ec2.{region}.amazonaws.com")]
}

/// Whether a service principal of a policy is one that there is here: the volume service, under its own or AWS's name, in any
/// Region. AWS refuses what is no service, too.
pub(super) fn is_service_principal(name: &str) -> bool {
    let regional = name.strip_prefix("ec2.").and_then(|n| n.strip_suffix(".amazonaws.com"));
    name == VOLUME_SERVICE || name == "ec2.amazonaws.com" || regional.is_some_and(is_label)
}

/// Whether that service principal is the volume service of this Region.
pub(super) fn is_volume_service(name: &str, region: &str) -> bool {
    name == "ec2.amazonaws.com" || volume_service_in(region).iter().any(|own| own == name)
}
