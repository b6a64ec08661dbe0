//! The services behind the listener: a row each. Requests come to a bare address, so a service is known by its signing name in the
//! credential scope, and must agree with what the request calls.

/// An AWS service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Key Management Service.
    Kms,
    /// Security Token Service.
    Sts,
    /// CloudTrail.
    CloudTrail,
    /// Resource Groups Tagging API.
    Tagging,
}

/// How a service's requests are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// AWS JSON 1.1: the operation in X-Amz-Target, after one of these prefixes.
    Json {
        /// With the dot.
        targets: &'static [&'static str],
    },
    /// AWS query: a form with Action and Version; XML answers.
    Query {
        /// The only version.
        version: &'static str,
        /// The namespace of the answers.
        namespace: &'static str,
    },
}

/// A service and its protocol.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) service: Service,
    /// Its signing name.
    pub(super) signing_name: &'static str,
    pub(super) protocol: Protocol,
}

/// All services. Names, targets and namespaces are those of the services' models (botocore's `service-2.json`, Smithy's
/// `aws.auth#sigv4` and service shape names: the two differ for CloudTrail).
const SERVICES: [Row; 4] = [
    Row { service: Service::Kms, signing_name: "kms", protocol: Protocol::Json { targets: &["TrentService."] } },
    Row {
        service: Service::Sts,
        signing_name: "sts",
        protocol: Protocol::Query { version: "2011-06-15", namespace: "https://sts.amazonaws.com/doc/2011-06-15/" },
    },
    Row {
        service: Service::CloudTrail,
        signing_name: "cloudtrail",
        protocol: Protocol::Json {
            targets: &["com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.", "CloudTrail_20131101."],
        },
    },
    Row {
        service: Service::Tagging,
        signing_name: "tagging",
        protocol: Protocol::Json { targets: &["ResourceGroupsTaggingAPI_20170126."] },
    },
];

impl Row {
    /// Returns the service with this signing name.
    pub(super) fn signed_as(name: &str) -> Option<&'static Self> {
        SERVICES.iter().find(|row| row.signing_name == name)
    }
}

impl Service {
    /// Returns the signing name, such as `kms`.
    #[must_use]
    pub fn name(self) -> &'static str {
        SERVICES.iter().find(|row| row.service == self).map_or("", |row| row.signing_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_a_row() {
        for service in [Service::Kms, Service::Sts, Service::CloudTrail, Service::Tagging] {
            assert_eq!(Row::signed_as(service.name()).unwrap().service, service);
        }
        assert!(Row::signed_as("s3").is_none());
        assert!(Row::signed_as("").is_none());
    }
}
