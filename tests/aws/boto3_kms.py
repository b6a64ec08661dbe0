"""boto3 drives every operation: what it answers, and that exactly its own permission allows it.

Signatures, MACs, shared secrets and imported material are checked with other implementations (cryptography, hashlib).
"""

import datetime
import hashlib
import hmac
import json
import unittest
import uuid

from common import ACCOUNT, REGION, RIG, Refusals, client, document, session, statement
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

ADMIN = client("kms")


def new_key(**arguments):
    return ADMIN.create_key(**arguments)["KeyMetadata"]["KeyId"]


def arn(key):
    return f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key}"


def alias():
    return f"alias/{uuid.uuid4()}"


class Setup:
    """One key of each kind for all tests; made when first used."""

    def __init__(self):
        self.made = {}

    def __getattr__(self, name):
        kinds = {
            "aes": {},
            "aes2": {},
            "rsa": {"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"},
            "rsa_sign": {"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"},
            "ec": {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"},
            "ecdh": {"KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT"},
            "mac": {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"},
        }
        if name not in self.made:
            self.made[name] = new_key(**kinds[name])
        return self.made[name]


KEYS = Setup()


def peer_key():
    pair = ec.generate_private_key(ec.SECP256R1())
    der = serialization.Encoding.DER
    return pair, pair.public_key().public_bytes(der, serialization.PublicFormat.SubjectPublicKeyInfo)


def wrapped(key, material):
    """Arguments of ImportKeyMaterial; wrapped by another implementation."""
    params = ADMIN.get_parameters_for_import(
        KeyId=key, WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048"
    )
    public = serialization.load_der_public_key(params["PublicKey"])
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    return {"KeyId": key, "ImportToken": params["ImportToken"], "EncryptedKeyMaterial": public.encrypt(material, oaep)}


def imported():
    key = new_key(Origin="EXTERNAL")
    ADMIN.import_key_material(**wrapped(key, b"m" * 32), ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE")
    return key


def disabled():
    key = new_key()
    ADMIN.disable_key(KeyId=key)
    return key


def doomed():
    key = new_key()
    ADMIN.schedule_key_deletion(KeyId=key)
    return key


def aliased():
    name = alias()
    ADMIN.create_alias(AliasName=name, TargetKeyId=KEYS.aes)
    return name


def granted(**more):
    made = ADMIN.create_grant(
        KeyId=KEYS.aes, GranteePrincipal=GRANTEE, Operations=["Decrypt"], **more
    )
    return {"KeyId": arn(KEYS.aes), "GrantId": made["GrantId"]}


def sealed():
    return ADMIN.encrypt(KeyId=KEYS.aes, Plaintext=b"text")["CiphertextBlob"]


def signed():
    what = {"KeyId": KEYS.ec, "Message": b"text", "SigningAlgorithm": "ECDSA_SHA_256"}
    return {**what, "Signature": ADMIN.sign(**what)["Signature"]}


def authenticated():
    what = {"KeyId": KEYS.mac, "Message": b"text", "MacAlgorithm": "HMAC_SHA_256"}
    return {**what, "Mac": ADMIN.generate_mac(**what)["Mac"]}


def tagged():
    key = new_key()
    ADMIN.tag_resource(KeyId=key, Tags=[{"TagKey": "a", "TagValue": "b"}])
    return key


def replicated():
    """A multi-Region key with a replica in eu-west-1; becomes primary there."""
    key = new_key(MultiRegion=True)
    ADMIN.replicate_key(KeyId=key, ReplicaRegion="eu-west-1")
    return key


DEFAULT_POLICY = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
                "Action": "kms:*",
                "Resource": "*",
            }
        ],
    }
)
GRANTEE = f"arn:aws:iam::{ACCOUNT}:user/other"

# Operation: the arguments of a call that works, and the permissions that it needs if they are not the one of its name.
CALLS = {
    "create_key": (lambda: {}, ()),
    "describe_key": (lambda: {"KeyId": KEYS.aes}, ()),
    "list_keys": (lambda: {}, ()),
    "get_key_last_usage": (lambda: {"KeyId": KEYS.aes}, ()),
    "update_key_description": (lambda: {"KeyId": KEYS.aes, "Description": "new"}, ()),
    "enable_key": (lambda: {"KeyId": disabled()}, ()),
    "disable_key": (lambda: {"KeyId": new_key()}, ()),
    "schedule_key_deletion": (lambda: {"KeyId": new_key()}, ()),
    "cancel_key_deletion": (lambda: {"KeyId": doomed()}, ()),
    "tag_resource": (lambda: {"KeyId": new_key(), "Tags": [{"TagKey": "a", "TagValue": "b"}]}, ()),
    "untag_resource": (lambda: {"KeyId": tagged(), "TagKeys": ["a"]}, ()),
    "list_resource_tags": (lambda: {"KeyId": KEYS.aes}, ()),
    "encrypt": (lambda: {"KeyId": KEYS.aes, "Plaintext": b"text"}, ()),
    "decrypt": (lambda: {"CiphertextBlob": sealed()}, ()),
    "re_encrypt": (
        lambda: {"CiphertextBlob": sealed(), "DestinationKeyId": KEYS.aes2},
        ("kms:ReEncryptFrom", "kms:ReEncryptTo"),
    ),
    "generate_data_key": (lambda: {"KeyId": KEYS.aes, "KeySpec": "AES_256"}, ()),
    "generate_data_key_without_plaintext": (lambda: {"KeyId": KEYS.aes, "NumberOfBytes": 16}, ()),
    "generate_random": (lambda: {"NumberOfBytes": 16}, ()),
    "generate_data_key_pair": (lambda: {"KeyId": KEYS.aes, "KeyPairSpec": "ECC_NIST_P256"}, ()),
    "generate_data_key_pair_without_plaintext": (lambda: {"KeyId": KEYS.aes, "KeyPairSpec": "ECC_NIST_P256"}, ()),
    "sign": (lambda: {"KeyId": KEYS.ec, "Message": b"text", "SigningAlgorithm": "ECDSA_SHA_256"}, ()),
    "verify": (signed, ()),
    "get_public_key": (lambda: {"KeyId": KEYS.ec}, ()),
    "derive_shared_secret": (
        lambda: {"KeyId": KEYS.ecdh, "KeyAgreementAlgorithm": "ECDH", "PublicKey": peer_key()[1]},
        (),
    ),
    "generate_mac": (lambda: {"KeyId": KEYS.mac, "Message": b"text", "MacAlgorithm": "HMAC_SHA_256"}, ()),
    "verify_mac": (authenticated, ()),
    "create_alias": (lambda: {"AliasName": alias(), "TargetKeyId": KEYS.aes}, ()),
    "update_alias": (lambda: {"AliasName": aliased(), "TargetKeyId": KEYS.aes2}, ()),
    "delete_alias": (lambda: {"AliasName": aliased()}, ()),
    "list_aliases": (lambda: {}, ()),
    "enable_key_rotation": (lambda: {"KeyId": KEYS.aes}, ()),
    "disable_key_rotation": (lambda: {"KeyId": KEYS.aes2}, ()),
    "get_key_rotation_status": (lambda: {"KeyId": KEYS.aes}, ()),
    "rotate_key_on_demand": (lambda: {"KeyId": new_key()}, ()),
    "list_key_rotations": (lambda: {"KeyId": KEYS.aes}, ()),
    "get_parameters_for_import": (
        lambda: {
            "KeyId": new_key(Origin="EXTERNAL"),
            "WrappingAlgorithm": "RSAES_OAEP_SHA_256",
            "WrappingKeySpec": "RSA_2048",
        },
        (),
    ),
    "import_key_material": (
        lambda: {
            **wrapped(new_key(Origin="EXTERNAL"), b"m" * 32),
            "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
        },
        (),
    ),
    "delete_imported_key_material": (lambda: {"KeyId": imported()}, ()),
    # Its author has to be able to change the policy again.
    "put_key_policy": (lambda: {"KeyId": KEYS.aes, "Policy": DEFAULT_POLICY}, ()),
    "get_key_policy": (lambda: {"KeyId": KEYS.aes}, ()),
    "list_key_policies": (lambda: {"KeyId": KEYS.aes}, ()),
    "create_grant": (lambda: {"KeyId": KEYS.aes, "GranteePrincipal": GRANTEE, "Operations": ["Decrypt"]}, ()),
    "list_grants": (lambda: {"KeyId": KEYS.aes}, ()),
    "list_retirable_grants": (lambda: {"RetiringPrincipal": GRANTEE}, ()),
    # The retiring principal needs no permission, unless a policy of its session limits it.
    "retire_grant": (lambda: granted(RetiringPrincipal=RIG["role"]), ()),
    "revoke_grant": (granted, ()),
    # As in AWS, creating the replica is another permission, in its Region.
    "replicate_key": (
        lambda: {"KeyId": new_key(MultiRegion=True), "ReplicaRegion": "eu-west-1"},
        ("kms:ReplicateKey", "kms:CreateKey"),
    ),
    "update_primary_region": (lambda: {"KeyId": replicated(), "PrimaryRegion": "eu-west-1"}, ()),
}


def action(call):
    """kms:CreateKey for create_key."""
    return "kms:" + ADMIN.meta.method_to_api_mapping[call]


class Permissions(unittest.TestCase, Refusals):
    """Every operation of the table, by who may and by who may not."""

    def test_exactly_its_permission_allows_an_operation(self):
        for call, (arguments, needs) in CALLS.items():
            with self.subTest(call):
                may = client("kms", keys=session("may", document(statement("Allow", *(needs or [action(call)])))))
                getattr(may, call)(**arguments())

    def test_without_its_permission_all_others_do_not_help(self):
        for call, (arguments, needs) in CALLS.items():
            for needed in needs or [action(call)]:
                with self.subTest(call, without=needed):
                    policy = document(statement("Allow", "kms:*"), statement("Deny", needed))
                    may_not = client("kms", keys=session("may-not", policy))
                    said = self.refused("AccessDeniedException", getattr(may_not, call), **arguments())
                    self.assertIn("is not authorized to perform", said)

    def test_who_has_no_policy_may_nothing(self):
        nobody = client("kms", "nobody")
        for call, (arguments, _) in CALLS.items():
            with self.subTest(call):
                self.refused("AccessDeniedException", getattr(nobody, call), **arguments())

    def test_an_alias_and_its_keys_are_each_asked_about(self):
        """AWS, "Controlling access to aliases": the alias and the key each need the permission."""
        other, key = f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/*", arn(KEYS.aes)
        for needed, allowed in [([other], False), ([key], False), ([other, key], True)]:
            with self.subTest(needed):
                policy = document({"Effect": "Allow", "Action": "kms:CreateAlias", "Resource": needed})
                create = client("kms", keys=session("alias", policy)).create_alias
                if allowed:
                    create(AliasName=alias(), TargetKeyId=KEYS.aes)
                else:
                    self.refused("AccessDeniedException", create, AliasName=alias(), TargetKeyId=KEYS.aes)

    def test_tags_of_a_new_key_need_a_permission_of_their_own(self):
        """CreateKey, Tags: "you must have kms:TagResource permission in an IAM policy"."""
        kms = client("kms", keys=session("tags", document(statement("Allow", "kms:CreateKey"))))
        self.refused("AccessDeniedException", kms.create_key, Tags=[{"TagKey": "a", "TagValue": "b"}])

    def test_conditions_are_those_of_the_request(self):
        """A condition of a session's policy: the algorithm, the pairs, the alias by which the key is named, a tag."""
        name = aliased()
        tagged_key = tagged()
        for call, key, value, good, bad in [
            ("encrypt", "kms:EncryptionContext:a", "1", {"EncryptionContext": {"a": "1"}}, {"EncryptionContext": {"a": "2"}}),
            ("encrypt", "kms:RequestAlias", name, {"KeyId": name}, {"KeyId": KEYS.aes}),
            ("encrypt", "aws:ResourceTag/a", "b", {"KeyId": tagged_key}, {"KeyId": KEYS.aes}),
            ("sign", "kms:MessageType", "RAW", {}, {"MessageType": "DIGEST", "Message": b"d" * 32}),
            ("create_key", "kms:KeySpec", "SYMMETRIC_DEFAULT", {}, {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}),
            ("schedule_key_deletion", "kms:ScheduleKeyDeletionPendingWindowInDays", "30", {}, {"PendingWindowInDays": 7}),
        ]:
            with self.subTest(call, condition=key):
                operator = "NumericEquals" if "Days" in key else "StringEquals"
                one = {**statement("Allow", action(call)), "Condition": {operator: {key: value}}}
                kms = client("kms", keys=session("conditions", document(one)))
                self.refused("AccessDeniedException", getattr(kms, call), **{**CALLS[call][0](), **bad})
                getattr(kms, call)(**{**CALLS[call][0](), **good})

    def test_the_table_is_all_that_coffer_has(self):
        """AWS's other operations are of custom key stores."""
        others = set(ADMIN.meta.method_to_api_mapping) - set(CALLS)
        stores = {f"{verb}_custom_key_store{s}" for verb, s in
                  [("connect", ""), ("create", ""), ("delete", ""), ("describe", "s"), ("disconnect", ""), ("update", "")]}
        self.assertLessEqual(stores, others)
        for call in sorted(others):
            with self.subTest(call):
                try:
                    getattr(ADMIN, call)()
                except ADMIN.exceptions.ClientError as err:
                    code = err.response["Error"]["Code"]
                    self.assertIn(code, ["UnknownOperationException", "UnsupportedOperationException"])
                else:
                    self.fail(f"{call} is answered, and no test drives it")


class Answers(unittest.TestCase, Refusals):
    """What operations answer, by other implementations where there is one."""

    def test_a_key_is_described_as_in_aws(self):
        tags = [{"TagKey": "team", "TagValue": "a"}]
        made = ADMIN.create_key(Description="d", Tags=tags)["KeyMetadata"]
        self.assertIsInstance(made["CreationDate"], datetime.datetime)
        expected = {
            "AWSAccountId": ACCOUNT,
            "Arn": arn(made["KeyId"]),
            "Enabled": True,
            "Description": "d",
            "KeyUsage": "ENCRYPT_DECRYPT",
            "KeyState": "Enabled",
            "Origin": "AWS_KMS",
            "KeyManager": "CUSTOMER",
            "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
            "KeySpec": "SYMMETRIC_DEFAULT",
            "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
            "MultiRegion": False,
        }
        self.assertEqual(expected, {name: made[name] for name in expected})
        self.assertEqual(made, ADMIN.describe_key(KeyId=made["Arn"])["KeyMetadata"])
        self.assertEqual(tags, ADMIN.list_resource_tags(KeyId=made["KeyId"])["Tags"])
        policy = ADMIN.get_key_policy(KeyId=made["KeyId"], PolicyName="default")["Policy"]
        self.assertEqual(
            ("kms:*", {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}),
            (json.loads(policy)["Statement"][0]["Action"], json.loads(policy)["Statement"][0]["Principal"]),
        )

    def test_states(self):
        key = new_key()
        ADMIN.disable_key(KeyId=key)
        self.refused("DisabledException", ADMIN.encrypt, KeyId=key, Plaintext=b"x")
        ADMIN.enable_key(KeyId=key)
        gone = ADMIN.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
        self.assertEqual(("PendingDeletion", 7, arn(key)), (gone["KeyState"], gone["PendingWindowInDays"], gone["KeyId"]))
        left = gone["DeletionDate"] - datetime.datetime.now(datetime.timezone.utc)
        self.assertAlmostEqual(left.total_seconds(), 7 * 86400, delta=600)
        self.refused("KMSInvalidStateException", ADMIN.encrypt, KeyId=key, Plaintext=b"x")
        self.refused("KMSInvalidStateException", ADMIN.enable_key, KeyId=key)
        self.assertEqual(arn(key), ADMIN.cancel_key_deletion(KeyId=key)["KeyId"])
        self.assertEqual("Disabled", ADMIN.describe_key(KeyId=key)["KeyMetadata"]["KeyState"])

    def test_encryption_binds_its_context(self):
        context = {"tenant": "a", "ü": "ß"}
        made = ADMIN.encrypt(KeyId=KEYS.aes, Plaintext=b"text", EncryptionContext=context)
        self.assertEqual((arn(KEYS.aes), "SYMMETRIC_DEFAULT"), (made["KeyId"], made["EncryptionAlgorithm"]))
        blob = made["CiphertextBlob"]
        back = ADMIN.decrypt(CiphertextBlob=blob, EncryptionContext=context)
        self.assertEqual((b"text", arn(KEYS.aes)), (back["Plaintext"], back["KeyId"]))
        self.refused("InvalidCiphertextException", ADMIN.decrypt, CiphertextBlob=blob)
        self.refused("InvalidCiphertextException", ADMIN.decrypt, CiphertextBlob=blob, EncryptionContext={"tenant": "a"})
        broken = blob[:-1] + bytes([blob[-1] ^ 1])
        self.refused("InvalidCiphertextException", ADMIN.decrypt, CiphertextBlob=broken, EncryptionContext=context)
        self.refused(
            "IncorrectKeyException", ADMIN.decrypt, CiphertextBlob=blob, EncryptionContext=context, KeyId=KEYS.aes2
        )
        moved = ADMIN.re_encrypt(
            CiphertextBlob=blob,
            SourceEncryptionContext=context,
            DestinationKeyId=KEYS.aes2,
            DestinationEncryptionContext={"new": "1"},
        )
        self.assertEqual((arn(KEYS.aes), arn(KEYS.aes2)), (moved["SourceKeyId"], moved["KeyId"]))
        again = ADMIN.decrypt(CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"new": "1"})
        self.assertEqual(b"text", again["Plaintext"])

    def test_data_keys(self):
        for how, length in [({"KeySpec": "AES_128"}, 16), ({"KeySpec": "AES_256"}, 32), ({"NumberOfBytes": 1024}, 1024)]:
            made = ADMIN.generate_data_key(KeyId=KEYS.aes, **how)
            self.assertEqual(length, len(made["Plaintext"]))
            self.assertEqual(made["Plaintext"], ADMIN.decrypt(CiphertextBlob=made["CiphertextBlob"])["Plaintext"])
        hidden = ADMIN.generate_data_key_without_plaintext(KeyId=KEYS.aes, KeySpec="AES_256")
        self.assertNotIn("Plaintext", hidden)
        self.assertEqual(32, len(ADMIN.decrypt(CiphertextBlob=hidden["CiphertextBlob"])["Plaintext"]))
        self.assertEqual(1024, len(ADMIN.generate_random(NumberOfBytes=1024)["Plaintext"]))
        pair = ADMIN.generate_data_key_pair(KeyId=KEYS.aes, KeyPairSpec="ECC_NIST_P384")
        opened = ADMIN.decrypt(CiphertextBlob=pair["PrivateKeyCiphertextBlob"])["Plaintext"]
        private = serialization.load_der_private_key(opened, None)
        self.assertEqual(opened, pair["PrivateKeyPlaintext"])
        der = private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.assertEqual(der, pair["PublicKey"])

    def test_signatures_verify_elsewhere(self):
        def public(key):
            return serialization.load_der_public_key(ADMIN.get_public_key(KeyId=key)["PublicKey"])

        def sign(key, how, message=b"text", kind="RAW"):
            return ADMIN.sign(KeyId=key, Message=message, MessageType=kind, SigningAlgorithm=how)["Signature"]

        public(KEYS.ec).verify(sign(KEYS.ec, "ECDSA_SHA_256"), b"text", ec.ECDSA(hashes.SHA256()))
        digest = hashlib.sha256(b"text").digest()
        public(KEYS.ec).verify(sign(KEYS.ec, "ECDSA_SHA_256", digest, "DIGEST"), b"text", ec.ECDSA(hashes.SHA256()))
        with self.assertRaises(InvalidSignature):
            public(KEYS.ec).verify(sign(KEYS.ec, "ECDSA_SHA_256"), b"other", ec.ECDSA(hashes.SHA256()))
        pkcs1 = sign(KEYS.rsa_sign, "RSASSA_PKCS1_V1_5_SHA_512")
        public(KEYS.rsa_sign).verify(pkcs1, b"text", padding.PKCS1v15(), hashes.SHA512())
        pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
        public(KEYS.rsa_sign).verify(sign(KEYS.rsa_sign, "RSASSA_PSS_SHA_256"), b"text", pss, hashes.SHA256())
        good = signed()
        self.assertTrue(ADMIN.verify(**good)["SignatureValid"])
        self.refused("KMSInvalidSignatureException", ADMIN.verify, **{**good, "Message": b"other"})
        self.refused("InvalidKeyUsageException", ADMIN.encrypt, KeyId=KEYS.ec, Plaintext=b"x")
        other = {"KeyId": KEYS.ec, "Message": b"text", "SigningAlgorithm": "RSASSA_PSS_SHA_256"}
        self.refused("InvalidKeyUsageException", ADMIN.sign, **other)

    def test_rsa_decrypts_what_others_encrypted(self):
        public = serialization.load_der_public_key(ADMIN.get_public_key(KeyId=KEYS.rsa)["PublicKey"])
        self.assertIsInstance(public, rsa.RSAPublicKey)
        oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
        how = {"KeyId": KEYS.rsa, "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
        back = ADMIN.decrypt(CiphertextBlob=public.encrypt(b"text", oaep), **how)
        self.assertEqual(b"text", back["Plaintext"])
        made = ADMIN.encrypt(Plaintext=b"text", **how)["CiphertextBlob"]
        self.assertEqual(b"text", ADMIN.decrypt(CiphertextBlob=made, **how)["Plaintext"])

    def test_a_shared_secret_is_the_one_of_the_peer(self):
        pair, public = peer_key()
        made = ADMIN.derive_shared_secret(KeyId=KEYS.ecdh, KeyAgreementAlgorithm="ECDH", PublicKey=public)
        ours = serialization.load_der_public_key(ADMIN.get_public_key(KeyId=KEYS.ecdh)["PublicKey"])
        self.assertEqual(pair.exchange(ec.ECDH(), ours), made["SharedSecret"])

    def test_macs_of_imported_material_are_those_of_hashlib(self):
        key = new_key(Origin="EXTERNAL", KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")
        self.refused(
            "KMSInvalidStateException", ADMIN.generate_mac, KeyId=key, Message=b"x", MacAlgorithm="HMAC_SHA_256"
        )
        material = bytes(range(32))
        ADMIN.import_key_material(**wrapped(key, material), ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE")
        mac = ADMIN.generate_mac(KeyId=key, Message=b"text", MacAlgorithm="HMAC_SHA_256")["Mac"]
        self.assertEqual(hmac.digest(material, b"text", "sha256"), mac)
        good = {"KeyId": key, "Message": b"text", "MacAlgorithm": "HMAC_SHA_256", "Mac": mac}
        self.assertTrue(ADMIN.verify_mac(**good)["MacValid"])
        self.refused("KMSInvalidMacException", ADMIN.verify_mac, **{**good, "Message": b"other"})

    def test_imported_material_goes_and_comes_back(self):
        key = imported()
        blob = ADMIN.encrypt(KeyId=key, Plaintext=b"text")["CiphertextBlob"]
        ADMIN.delete_imported_key_material(KeyId=key)
        self.assertEqual("PendingImport", ADMIN.describe_key(KeyId=key)["KeyMetadata"]["KeyState"])
        self.refused("KMSInvalidStateException", ADMIN.decrypt, CiphertextBlob=blob)
        does_not_expire = {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}
        other = wrapped(key, b"o" * 32)
        self.refused("IncorrectKeyMaterialException", ADMIN.import_key_material, **other, **does_not_expire)
        ADMIN.import_key_material(**wrapped(key, b"m" * 32), **does_not_expire)
        self.assertEqual(b"text", ADMIN.decrypt(CiphertextBlob=blob)["Plaintext"])

    def test_rotation_keeps_what_was_encrypted(self):
        key = new_key()
        blob = ADMIN.encrypt(KeyId=key, Plaintext=b"text")["CiphertextBlob"]
        ADMIN.enable_key_rotation(KeyId=key, RotationPeriodInDays=90)
        status = ADMIN.get_key_rotation_status(KeyId=key)
        self.assertEqual((True, 90), (status["KeyRotationEnabled"], status["RotationPeriodInDays"]))
        ADMIN.disable_key_rotation(KeyId=key)
        self.assertFalse(ADMIN.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"])
        ADMIN.rotate_key_on_demand(KeyId=key)
        listed = ADMIN.list_key_rotations(KeyId=key)["Rotations"]
        self.assertEqual(["ON_DEMAND"], [one["RotationType"] for one in listed])
        self.assertEqual(b"text", ADMIN.decrypt(CiphertextBlob=blob)["Plaintext"])
        self.refused("UnsupportedOperationException", ADMIN.enable_key_rotation, KeyId=KEYS.rsa)

    def test_a_replica_decrypts_in_its_region(self):
        key = replicated()
        there = client("kms", region="eu-west-1")
        blob = ADMIN.encrypt(KeyId=key, Plaintext=b"text")["CiphertextBlob"]
        back = there.decrypt(CiphertextBlob=blob)
        self.assertEqual((b"text", f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/{key}"), (back["Plaintext"], back["KeyId"]))
        ADMIN.update_primary_region(KeyId=key, PrimaryRegion="eu-west-1")
        config = there.describe_key(KeyId=key)["KeyMetadata"]["MultiRegionConfiguration"]
        self.assertEqual(("PRIMARY", "eu-west-1"), (config["MultiRegionKeyType"], config["PrimaryKey"]["Region"]))
        self.refused("NotFoundException", there.describe_key, KeyId=KEYS.aes)

    def test_aliases(self):
        name = alias()
        ADMIN.create_alias(AliasName=name, TargetKeyId=KEYS.aes)
        self.refused("AlreadyExistsException", ADMIN.create_alias, AliasName=name, TargetKeyId=KEYS.aes2)
        self.assertEqual(KEYS.aes, ADMIN.describe_key(KeyId=name)["KeyMetadata"]["KeyId"])
        ADMIN.update_alias(AliasName=name, TargetKeyId=KEYS.aes2)
        by_arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:{name}"
        self.assertEqual(KEYS.aes2, ADMIN.describe_key(KeyId=by_arn)["KeyMetadata"]["KeyId"])
        listed = ADMIN.list_aliases(KeyId=KEYS.aes2)["Aliases"]
        self.assertIn((name, by_arn, KEYS.aes2), [(a["AliasName"], a["AliasArn"], a["TargetKeyId"]) for a in listed])
        ADMIN.delete_alias(AliasName=name)
        self.refused("NotFoundException", ADMIN.describe_key, KeyId=name)
        self.refused("NotFoundException", ADMIN.delete_alias, AliasName=name)
        self.refused("NotAuthorizedException", ADMIN.create_alias, AliasName="alias/aws/x", TargetKeyId=KEYS.aes)

    def test_pages_are_whole_and_without_repeats(self):
        for _ in range(3):
            new_key()
        for paginator, field, item, arguments in [
            ("list_keys", "Keys", "KeyId", {}),
            ("list_aliases", "Aliases", "AliasName", {}),
            ("list_resource_tags", "Tags", "TagKey", {"KeyId": self.many_tags()}),
            ("list_grants", "Grants", "GrantId", {"KeyId": self.many_grants()}),
        ]:
            with self.subTest(paginator):
                pages = list(ADMIN.get_paginator(paginator).paginate(**arguments, PaginationConfig={"PageSize": 2}))
                seen = [one[item] for page in pages for one in page[field]]
                whole = [one[item] for one in getattr(ADMIN, paginator)(**arguments)[field]]
                self.assertGreater(len(pages), 1)
                self.assertTrue(all(len(page[field]) <= 2 for page in pages))
                self.assertEqual(len(seen), len(set(seen)))
                self.assertLessEqual(set(whole), set(seen))
        self.refused("InvalidMarkerException", ADMIN.list_keys, Marker="no marker")
        self.refused("ValidationException", ADMIN.list_keys, Limit=1001)

    def many_tags(self):
        return new_key(Tags=[{"TagKey": f"t{i}", "TagValue": "v"} for i in range(5)])

    def many_grants(self):
        for name in ["a", "b", "c"]:
            granted(Name=name + str(uuid.uuid4()))
        for _ in range(3):
            aliased()
        return KEYS.aes

    def test_a_grant_lets_in_and_ends(self):
        nobody, context = client("kms", "nobody"), {"a": "1"}
        blob = ADMIN.encrypt(KeyId=KEYS.aes, Plaintext=b"text", EncryptionContext=context)["CiphertextBlob"]
        ask = {"CiphertextBlob": blob, "EncryptionContext": context}
        made = ADMIN.create_grant(
            KeyId=KEYS.aes,
            GranteePrincipal=f"arn:aws:iam::{ACCOUNT}:user/nobody",
            Operations=["Decrypt", "RetireGrant"],
            Constraints={"EncryptionContextEquals": context},
        )
        self.assertEqual(b"text", nobody.decrypt(**ask, GrantTokens=[made["GrantToken"]])["Plaintext"])
        listed = ADMIN.list_grants(KeyId=KEYS.aes, GrantId=made["GrantId"])["Grants"]
        self.assertEqual({"EncryptionContextEquals": context}, listed[0]["Constraints"])
        nobody.retire_grant(GrantToken=made["GrantToken"])
        self.refused("AccessDeniedException", nobody.decrypt, **ask)

    def test_errors_have_awss_codes(self):
        missing = str(uuid.uuid4())
        for code, call, arguments in [
            ("NotFoundException", "describe_key", {"KeyId": missing}),
            ("NotFoundException", "encrypt", {"KeyId": "alias/none", "Plaintext": b"x"}),
            ("InvalidArnException", "describe_key", {"KeyId": "arn:aws:kms:us-east-1:key"}),
            ("ValidationException", "create_key", {"KeySpec": "AES_512"}),
            ("ValidationException", "create_key", {"KeySpec": "RSA_2048"}),
            ("ValidationException", "encrypt", {"KeyId": KEYS.aes, "Plaintext": b"x" * 4097}),
            ("ValidationException", "generate_data_key", {"KeyId": KEYS.aes}),
            ("ValidationException", "generate_random", {"NumberOfBytes": 1025}),
            ("ValidationException", "schedule_key_deletion", {"KeyId": new_key(), "PendingWindowInDays": 6}),
            ("InvalidCiphertextException", "decrypt", {"CiphertextBlob": b"noise"}),
            ("MalformedPolicyDocumentException", "put_key_policy", {"KeyId": KEYS.aes, "Policy": "{"}),
            ("TagException", "tag_resource", {"KeyId": KEYS.aes, "Tags": [{"TagKey": "aws:x", "TagValue": "y"}]}),
            ("DryRunOperationException", "encrypt", {"KeyId": KEYS.aes, "Plaintext": b"x", "DryRun": True}),
            ("UnsupportedOperationException", "get_public_key", {"KeyId": KEYS.aes}),
        ]:
            with self.subTest(code, call=call):
                self.refused(code, getattr(ADMIN, call), **arguments)


if __name__ == "__main__":
    unittest.main()
