// The AWS SDK for JavaScript: keys, encryption, signatures checked by node's own crypto, errors, a session, pages.

import assert from "node:assert/strict";
import { createPublicKey, verify } from "node:crypto";
import {
  CreateKeyCommand,
  DecryptCommand,
  DescribeKeyCommand,
  DisabledException,
  DisableKeyCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  GetPublicKeyCommand,
  InvalidCiphertextException,
  KMSClient,
  NotFoundException,
  paginateListKeys,
  SignCommand,
} from "@aws-sdk/client-kms";
import { GetCallerIdentityCommand, GetSessionTokenCommand, STSClient } from "@aws-sdk/client-sts";

const rig = JSON.parse(process.env.COFFER_AWS_RIG);
const { id, secret } = rig.principals.admin;
const config = {
  region: "us-east-1",
  endpoint: rig.endpoint,
  credentials: { accessKeyId: id, secretAccessKey: secret },
  maxAttempts: 1,
};
const kms = new KMSClient(config);
const sts = new STSClient(config);

const me = await sts.send(new GetCallerIdentityCommand({}));
assert.equal(me.Account, rig.account);
assert.equal(me.Arn, `arn:aws:iam::${rig.account}:user/admin`);

const { KeyMetadata: key } = await kms.send(new CreateKeyCommand({ Description: "js" }));
assert.equal(key.KeyState, "Enabled");
assert.ok(key.CreationDate instanceof Date && Math.abs(Date.now() - key.CreationDate) < 600_000);

const text = new TextEncoder().encode("text");
const EncryptionContext = { tenant: "a" };
const sealed = await kms.send(new EncryptCommand({ KeyId: key.KeyId, Plaintext: text, EncryptionContext }));
const opened = await kms.send(new DecryptCommand({ CiphertextBlob: sealed.CiphertextBlob, EncryptionContext }));
assert.deepEqual(Buffer.from(opened.Plaintext), Buffer.from(text));
const wrong = kms.send(new DecryptCommand({ CiphertextBlob: sealed.CiphertextBlob }));
await assert.rejects(wrong, InvalidCiphertextException);

const data = await kms.send(new GenerateDataKeyCommand({ KeyId: key.Arn, KeySpec: "AES_256" }));
const again = await kms.send(new DecryptCommand({ CiphertextBlob: data.CiphertextBlob }));
assert.equal(data.Plaintext.length, 32);
assert.deepEqual(Buffer.from(again.Plaintext), Buffer.from(data.Plaintext));

const pair = await kms.send(new CreateKeyCommand({ KeySpec: "ECC_NIST_P256", KeyUsage: "SIGN_VERIFY" }));
const KeyId = pair.KeyMetadata.KeyId;
const { Signature } = await kms.send(
  new SignCommand({ KeyId, Message: text, SigningAlgorithm: "ECDSA_SHA_256" }),
);
const { PublicKey } = await kms.send(new GetPublicKeyCommand({ KeyId }));
const publicKey = createPublicKey({ key: Buffer.from(PublicKey), format: "der", type: "spki" });
assert.equal(verify("sha256", text, publicKey, Signature), true);
assert.equal(verify("sha256", Buffer.from("other"), publicKey, Signature), false);

await kms.send(new DisableKeyCommand({ KeyId: key.KeyId }));
await assert.rejects(kms.send(new EncryptCommand({ KeyId: key.KeyId, Plaintext: text })), DisabledException);
await assert.rejects(kms.send(new DescribeKeyCommand({ KeyId: "alias/none" })), NotFoundException);

const { Credentials: made } = await sts.send(new GetSessionTokenCommand({ DurationSeconds: 900 }));
assert.ok(made.Expiration instanceof Date && made.Expiration > new Date());
const credentials = {
  accessKeyId: made.AccessKeyId,
  secretAccessKey: made.SecretAccessKey,
  sessionToken: made.SessionToken,
};
const listed = [];
for await (const page of paginateListKeys({ client: new KMSClient({ ...config, credentials }), pageSize: 1 }, {})) {
  listed.push(...page.Keys.map((one) => one.KeyId));
}
assert.ok(listed.includes(key.KeyId) && listed.includes(KeyId));
assert.equal(new Set(listed).size, listed.length);
console.log("ok");
