//! What the ARNs of principals and keys say.

/// The account of an ARN.
pub fn account_of(arn: &str) -> Option<&str> {
    arn.split(':').nth(4).filter(|a| !a.is_empty())
}

/// The Region of an ARN.
pub(super) fn region_of(arn: &str) -> &str {
    arn.split(':').nth(3).unwrap_or_default()
}

/// The service in the ARN of a service principal.
pub(super) fn service_of(arn: &str) -> Option<&str> {
    arn.splitn(6, ':').nth(5)?.strip_prefix("service/")
}
