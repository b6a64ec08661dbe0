"""What the scripts share: who calls, where the server is, and how a refusal is asserted.

Run by tests/aws.rs, which names a JSON file in COFFER_AWS:
{"endpoint": URL, "account": ID, "principals": {NAME: {"id": ..., "secret": ...}}, "role": ARN}
"""

import json
import os

import boto3
import botocore.config
import botocore.exceptions

with open(os.environ["COFFER_AWS"], encoding="utf-8") as _file:
    RIG = json.load(_file)

ACCOUNT = RIG["account"]
REGION = "us-east-1"


def client(service, who="admin", region=REGION, keys=None):
    """A client of a principal of the rig, or of credentials as AssumeRole returns them."""
    if keys is None:
        own = RIG["principals"][who]
        keys = {"AccessKeyId": own["id"], "SecretAccessKey": own["secret"]}
    return boto3.client(
        service,
        region_name=region,
        endpoint_url=RIG["endpoint"],
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys.get("SessionToken"),
        config=botocore.config.Config(retries={"total_max_attempts": 1}, parameter_validation=False),
    )


def statement(effect, *actions):
    return {"Effect": effect, "Action": list(actions), "Resource": "*"}


def document(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def session(name, policy=None, who="caller"):
    """The credentials of a session of the rig's role."""
    limits = {} if policy is None else {"Policy": policy}
    made = client("sts", who).assume_role(RoleArn=RIG["role"], RoleSessionName=name, **limits)
    return made["Credentials"]


class Refusals:
    """Assertions for unittest.TestCase."""

    def refused(self, code, call, **arguments):
        """The call fails with this code; returns the message."""
        try:
            answer = call(**arguments)
        except botocore.exceptions.ClientError as err:
            self.assertEqual(err.response["Error"]["Code"], code, err)
            return err.response["Error"]["Message"]
        raise AssertionError(f"expected {code}, got {answer}")
