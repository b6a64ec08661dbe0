//! The names of services in policies.
//!
//! Sources: KMS Developer Guide, "kms:ViaService"; IAM User Guide, "AWS JSON policy elements: Principal".

/// The name of coffer's volume service, in `kms:ViaService` and as a service principal. Policies may also use the name of AWS's
/// volume service: `ec2.REGION.amazonaws.com`, and `ec2.amazonaws.com` as a principal.
pub const VOLUME_SERVICE: &str = "ec2.coffer";

/// AWS services that use keys on behalf of callers (KMS Developer Guide, "kms:ViaService"); coffer is only `ec2`.
const SERVICES: &str = "airflow appflow apprunner athena auditmanager backup backup-gateway cassandra codeartifact \
    codeguru-reviewer comprehend connect directoryservice dms dynamodb ec2 ecr eks elasticfilesystem es finspace firehose \
    forecast fsx geo glue groundstation healthlake importexport iotsitewise kafka kendra kinesis kinesisvideo lambda lex \
    license-manager lookoutequipment lookoutmetrics lookoutvision macie malware-protection managedblockchain mediatailor \
    memorydb mgn monitron mq nimble omics profile proton qldb rds redshift redshift-serverless rekognition s3 sagemaker \
    secretsmanager ses sns sqlworkbench sqs ssm ssm-contacts ssm-incidents storagegateway timestream translate wisdom \
    workmail workspaces workspaces-web xray";

/// Whether a text consists of lower-case letters, digits and dashes, as Regions and names of services do.
fn is_label(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The known service that a `kms:ViaService` begins with.
pub(super) fn known_service(name: &str) -> Option<&str> {
    name.split('.').next().filter(|s| SERVICES.split_whitespace().any(|known| known == *s))
}

/// Whether a text has the form of a `kms:ViaService`: `ec2.coffer`, or `NAME.REGION.amazonaws.com`.
pub(super) fn is_service(name: &str, any_case: bool) -> bool {
    let name = if any_case { name.to_ascii_lowercase() } else { name.to_owned() };
    let rest = name.strip_suffix(".amazonaws.com").or_else(|| name.strip_suffix(".amazonaws.com.cn"));
    let labels: Vec<&str> = rest.map(|r| r.split('.').collect()).unwrap_or_default();
    name == VOLUME_SERVICE || (labels.len() >= 2 && labels.iter().all(|l| is_label(l)))
}

/// The volume service's names in a Region, as values of `kms:ViaService`: its own, and that of AWS's volume service.
pub(super) fn volume_service_in(region: &str) -> [String; 2] {
    [VOLUME_SERVICE.to_owned(), format!("ec2.{region}.amazonaws.com")]
}

/// The volume service's names as a principal, as values of `aws:CalledVia`.
pub(super) fn called_via() -> [String; 2] {
    [VOLUME_SERVICE.to_owned(), "ec2.amazonaws.com".to_owned()]
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

/// Whether a text has the form of a service principal: `NAME.amazonaws.com`, `NAME.REGION.amazonaws.com` or `ec2.coffer`.
pub(super) fn is_any_service_principal(name: &str) -> bool {
    let labels = name.strip_suffix(".amazonaws.com").map(|rest| rest.split('.').collect::<Vec<_>>());
    name == VOLUME_SERVICE || labels.is_some_and(|l| l.len() <= 2 && l.iter().all(|l| is_label(l)))
}
