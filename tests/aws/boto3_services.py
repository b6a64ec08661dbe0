"""boto3 drives the services around the KMS: CloudTrail's LookupEvents, and the Resource Groups Tagging API."""

import json
import unittest
import uuid

from common import ACCOUNT, REGION, Refusals, client

KMS = client("kms")


def admin(service):
    """A client of the user with all permissions of all services."""
    return client(service, "operator")


class Trail(unittest.TestCase, Refusals):
    def test_an_act_is_an_event(self):
        key = KMS.create_key()["KeyMetadata"]["Arn"]
        secret = "Zq" + uuid.uuid4().hex
        KMS.encrypt(KeyId=key, Plaintext=secret.encode(), EncryptionContext={"tenant": "a"})
        found = admin("cloudtrail").lookup_events(
            LookupAttributes=[{"AttributeKey": "ResourceName", "AttributeValue": key}]
        )["Events"]
        self.assertEqual(["Encrypt", "CreateKey"], [event["EventName"] for event in found])
        event = json.loads(found[0]["CloudTrailEvent"])
        self.assertEqual(
            ("kms.amazonaws.com", "Encrypt", REGION, {"tenant": "a"}),
            (event["eventSource"], event["eventName"], event["awsRegion"], event["requestParameters"]["encryptionContext"]),
        )
        self.assertEqual(f"arn:aws:iam::{ACCOUNT}:user/admin", event["userIdentity"]["arn"])
        self.assertNotIn(secret, found[0]["CloudTrailEvent"])

    def test_a_refusal_is_an_event_with_its_code(self):
        key = KMS.create_key()["KeyMetadata"]["Arn"]
        self.refused("AccessDeniedException", client("kms", "nobody").encrypt, KeyId=key, Plaintext=b"x")
        pages = admin("cloudtrail").get_paginator("lookup_events").paginate(
            LookupAttributes=[{"AttributeKey": "Username", "AttributeValue": "nobody"}], PaginationConfig={"PageSize": 1}
        )
        events = [json.loads(event["CloudTrailEvent"]) for page in pages for event in page["Events"]]
        self.assertIn(("Encrypt", "AccessDenied"), [(event["eventName"], event.get("errorCode")) for event in events])

    def test_it_takes_its_permission(self):
        self.refused("AccessDeniedException", client("cloudtrail").lookup_events)


class Tagging(unittest.TestCase, Refusals):
    def test_keys_are_tagged_and_found(self):
        tags, value = admin("resourcegroupstaggingapi"), uuid.uuid4().hex
        keys = [KMS.create_key()["KeyMetadata"]["Arn"] for _ in range(3)]
        self.assertEqual({}, tags.tag_resources(ResourceARNList=keys[:2], Tags={"team": value})["FailedResourcesMap"])
        pages = tags.get_paginator("get_resources").paginate(
            TagFilters=[{"Key": "team", "Values": [value]}], PaginationConfig={"PageSize": 1}
        )
        found = [one["ResourceARN"] for page in pages for one in page["ResourceTagMappingList"]]
        self.assertEqual(sorted(keys[:2]), sorted(found))
        self.assertEqual([{"TagKey": "team", "TagValue": value}], KMS.list_resource_tags(KeyId=keys[0])["Tags"])
        self.assertIn("team", tags.get_tag_keys()["TagKeys"])
        self.assertIn(value, tags.get_tag_values(Key="team")["TagValues"])
        tags.untag_resources(ResourceARNList=keys[:1], TagKeys=["team"])
        self.assertEqual([], KMS.list_resource_tags(KeyId=keys[0])["Tags"])

    def test_it_takes_its_permission(self):
        tags = client("resourcegroupstaggingapi")
        for call, arguments in [("get_resources", {}), ("get_tag_keys", {}), ("get_tag_values", {"Key": "team"})]:
            with self.subTest(call):
                self.refused("AccessDeniedException", getattr(tags, call), **arguments)


if __name__ == "__main__":
    unittest.main()
