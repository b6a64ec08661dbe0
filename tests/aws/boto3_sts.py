"""boto3 drives STS and the signatures: who one is, sessions and what limits them, credentials that are refused."""

import datetime
import unittest

import botocore.auth
from common import ACCOUNT, RIG, Refusals, client, document, session, statement

NAME = RIG["role"].rsplit("/", 1)[1]


class Sessions(unittest.TestCase, Refusals):
    def test_who_one_is(self):
        me = client("sts", "nobody").get_caller_identity()
        self.assertEqual((ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/nobody"), (me["Account"], me["Arn"]))
        self.assertRegex(me["UserId"], "^AIDA[A-Z0-9]{16,}$")
        as_role = client("sts", keys=session("work")).get_caller_identity()
        self.assertEqual(f"arn:aws:sts::{ACCOUNT}:assumed-role/{NAME}/work", as_role["Arn"])
        self.assertRegex(as_role["UserId"], "^AROA[A-Z0-9]{16,}:work$")

    def test_a_session_lasts_as_long_as_asked(self):
        for seconds in [900, 3600]:
            made = client("sts", "caller").assume_role(
                RoleArn=RIG["role"], RoleSessionName="work", DurationSeconds=seconds
            )
            left = made["Credentials"]["Expiration"] - datetime.datetime.now(datetime.timezone.utc)
            self.assertAlmostEqual(left.total_seconds(), seconds, delta=60)
            self.assertTrue(made["Credentials"]["AccessKeyId"].startswith("ASIA"))
        for seconds in [899, 43201]:
            self.refused(
                "ValidationError",
                client("sts", "caller").assume_role,
                RoleArn=RIG["role"],
                RoleSessionName="work",
                DurationSeconds=seconds,
            )

    def test_who_may_not_assume_learns_nothing(self):
        nobody = client("sts", "nobody")
        there = self.refused("AccessDenied", nobody.assume_role, RoleArn=RIG["role"], RoleSessionName="work")
        none = RIG["role"].replace(NAME, "none")
        absent = self.refused("AccessDenied", nobody.assume_role, RoleArn=none, RoleSessionName="work")
        self.assertEqual(there, absent.replace(none, RIG["role"]))

    def test_a_session_policy_only_takes_away(self):
        whole = client("kms", keys=session("whole"))
        key = whole.create_key()["KeyMetadata"]["KeyId"]
        blob = whole.encrypt(KeyId=key, Plaintext=b"text")["CiphertextBlob"]
        reads = client("kms", keys=session("reads", document(statement("Allow", "kms:Decrypt"))))
        self.assertEqual(b"text", reads.decrypt(CiphertextBlob=blob)["Plaintext"])
        said = self.refused("AccessDeniedException", reads.encrypt, KeyId=key, Plaintext=b"x")
        self.assertIn("session policy", said)
        other = client("sts", keys=session("reads", document(statement("Allow", "*"))))
        self.refused("AccessDenied", other.assume_role, RoleArn=RIG["role"], RoleSessionName="chained")
        self.refused(
            "MalformedPolicyDocument",
            client("sts", "caller").assume_role,
            RoleArn=RIG["role"],
            RoleSessionName="work",
            Policy="{",
        )

    def test_a_session_token_of_a_user(self):
        made = client("sts", "admin").get_session_token(DurationSeconds=900)["Credentials"]
        self.assertEqual(
            f"arn:aws:iam::{ACCOUNT}:user/admin", client("sts", keys=made).get_caller_identity()["Arn"]
        )
        client("kms", keys=made).list_keys()

    def test_bad_credentials(self):
        made = session("work")
        own = {"AccessKeyId": RIG["principals"]["admin"]["id"], "SecretAccessKey": RIG["principals"]["admin"]["secret"]}
        forged = made["SessionToken"][:-8] + ("AAAAAAAA" if made["SessionToken"][-8:] != "AAAAAAAA" else "BBBBBBBB")
        for kms_code, sts_code, keys in [
            ("UnrecognizedClientException", "InvalidClientTokenId", {**own, "AccessKeyId": "AKIA" + "X" * 16}),
            ("InvalidSignatureException", "SignatureDoesNotMatch", {**own, "SecretAccessKey": "x" * 40}),
            ("UnrecognizedClientException", "InvalidClientTokenId", {**made, "SessionToken": forged}),
            ("UnrecognizedClientException", "InvalidClientTokenId", {**made, "SessionToken": None}),
        ]:
            with self.subTest(kms_code, keys=keys["AccessKeyId"][:4]):
                self.refused(kms_code, client("kms", keys=keys).list_keys)
                self.refused(sts_code, client("sts", keys=keys).get_caller_identity)

    def test_a_signature_has_its_time(self):
        """botocore signs as if it were half an hour ago."""
        kms = client("kms", "admin")
        then = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=30)

        def backdate(request, **_):
            request.context["timestamp"] = then.strftime(botocore.auth.SIGV4_TIMESTAMP)

        real = botocore.auth.SigV4Auth.add_auth

        def add_auth(auth, request):
            backdate(request)
            auth._modify_request_before_signing(request)
            canonical = auth.canonical_request(request)
            auth._inject_signature_to_request(request, auth.signature(auth.string_to_sign(request, canonical), request))

        botocore.auth.SigV4Auth.add_auth = add_auth
        try:
            said = self.refused("InvalidSignatureException", kms.list_keys)
        finally:
            botocore.auth.SigV4Auth.add_auth = real
        self.assertIn("Signature expired", said)


if __name__ == "__main__":
    unittest.main()
