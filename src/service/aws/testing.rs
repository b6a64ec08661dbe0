//! Shared by the tests of AWS's operations: an installation of two accounts with a clock that can be set, and a check of
//! every answer against the members of AWS's model.

use super::super::{GRACE, OpenAs, Role, Service};
use super::{Signed, find};
use crate::env::{Clock, Env, SystemRng, Timestamp};
use crate::error::Error;
use crate::iam::{NewRole, NewUser, Principal, PrincipalRef};
use crate::kms::{Caller, InstallationConfig, RootChoice, RootUnlock};
use crate::ledger::{AuditEvent, Filter, RequestInfo};
use crate::service::datadir::DataDir;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// The account of the installation.
pub(super) const A: &str = "111122223333";
/// Another account.
pub(super) const B: &str = "444455556666";
/// The Region of the installation.
pub(super) const EAST: &str = "us-east-1";
/// Another Region.
pub(super) const WEST: &str = "eu-west-1";
const DAY: i64 = 24 * 60 * 60 * 1000;

/// The wall clock and the clock since boot, in milliseconds.
pub(super) struct SetClock(pub(super) Arc<AtomicI64>, pub(super) Arc<AtomicI64>);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
    fn since_boot(&self) -> i64 {
        self.1.load(Ordering::Relaxed)
    }
}

/// A new installation of account [`A`], with account [`B`].
pub(super) fn installed(dir: &tempfile::TempDir, env: Env, role: Role) -> Arc<Service> {
    let data = DataDir::at(&dir.path().join("data")).unwrap();
    let (key, config) =
        (dir.path().join("root.key"), InstallationConfig { account: Some(A.into()), ..Default::default() });
    Service::init(&data, &env, &RootChoice::File(key.clone()), &config).unwrap();
    let lock = data.try_lock(&env, "test").unwrap().unwrap();
    let opening = OpenAs { role, single_host: false, lease_grace: GRACE };
    let service = Service::open(data, env, lock, &RootUnlock::File(key), opening).unwrap();
    let owner = service.caller_of(0, "test").unwrap();
    service.kms.iam().create_account("other", Some(B), &owner).unwrap();
    service
}

pub(super) struct Lab {
    pub(super) service: Arc<Service>,
    pub(super) dir: tempfile::TempDir,
    now: Arc<AtomicI64>,
    since_boot: Arc<AtomicI64>,
    requests: AtomicU64,
}

impl Lab {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = Arc::new(AtomicI64::new(1_800_000_000_000));
        let since_boot = Arc::new(AtomicI64::new(1000));
        let clock = Arc::new(SetClock(now.clone(), since_boot.clone()));
        let env = Env { clock, rng: Arc::new(SystemRng), boot_id: "test".into() };
        let service = installed(&dir, env, Role::Daemon);
        Self { service, dir, now, since_boot, requests: AtomicU64::new(0) }
    }

    /// Lets time pass on both clocks.
    pub(super) fn pass_days(&self, days: i64) {
        self.set_clock_by_days(days);
        self.since_boot.fetch_add(days * DAY, Ordering::Relaxed);
    }

    /// Sets the wall clock only.
    pub(super) fn set_clock_by_days(&self, days: i64) {
        self.now.fetch_add(days * DAY, Ordering::Relaxed);
    }

    pub(super) fn now_seconds(&self) -> f64 {
        self.now.load(Ordering::Relaxed) as f64 / 1000.0
    }

    /// Who administers the installation, without a signed request.
    pub(super) fn owner(&self) -> Caller {
        self.service.caller_of(0, "test").unwrap()
    }

    pub(super) fn signed(&self, principal: Principal, region: &str) -> Caller {
        let n = self.requests.fetch_add(1, Ordering::Relaxed);
        let info = RequestInfo {
            id: format!("request-{n}"),
            source: "192.0.2.7".into(),
            agent: "test/1.0".into(),
            region: region.into(),
            ..RequestInfo::default()
        };
        self.service.signed_by(Signed { principal: Arc::new(principal), info, secure_transport: true }).unwrap()
    }

    fn by_key(&self, id: &str, of: &PrincipalRef, region: &str) -> Caller {
        self.service.kms.iam().put_access_key(id, "secret-for-tests", of, &self.owner()).unwrap();
        self.signed(self.service.credential(id, None).unwrap().principal, region)
    }

    /// The root of an account.
    pub(super) fn root(&self, account: &str, region: &str) -> Caller {
        self.by_key(&format!("AKIAROOT{account}"), &PrincipalRef::root(account), region)
    }

    /// A user with that identity policy.
    pub(super) fn user(&self, account: &str, name: &str, region: &str, policy: Option<Value>) -> Caller {
        let (iam, owner, of) = (self.service.kms.iam(), self.owner(), PrincipalRef::user(account, name));
        let new = NewUser { account: account.into(), name: name.into(), ..NewUser::default() };
        let _exists = iam.create_user(new, &owner);
        if let Some(policy) = policy {
            iam.put_policy(&of, "own", &policy.to_string(), &|_| Ok(()), &owner).unwrap();
        }
        self.by_key(&format!("AKIA{account}{name}"), &of, region)
    }

    /// A role that the root and the principals of an account can assume, with that identity policy. Returns its ARN.
    pub(super) fn role(&self, account: &str, name: &str, trusts: &str, policy: Value) -> String {
        let (iam, owner) = (self.service.kms.iam(), self.owner());
        let trust =
            statement("Allow", "sts:AssumeRole", None, Some(json!({"AWS": format!("arn:aws:iam::{trusts}:root")})));
        let new =
            NewRole { account: account.into(), name: name.into(), trust: trust.to_string(), ..NewRole::default() };
        let role = iam.create_role(new, &|_| Ok(()), &owner).unwrap();
        iam.put_policy(&PrincipalRef::role(account, name), "own", &policy.to_string(), &|_| Ok(()), &owner).unwrap();
        role.arn()
    }

    /// A session of a role, with a session policy.
    pub(super) fn session(&self, by: &Caller, role: &str, policy: Option<Value>, region: &str) -> Caller {
        let mut asked = json!({"RoleArn": role, "RoleSessionName": "session"});
        if let Some(policy) = policy {
            asked["Policy"] = policy.to_string().into();
        }
        let made = self.ok(by, "sts:AssumeRole", asked);
        let made = &made["Credentials"];
        let (id, token) = (made["AccessKeyId"].as_str().unwrap(), made["SessionToken"].as_str().unwrap());
        self.signed(self.service.credential(id, Some(token)).unwrap().principal, region)
    }

    /// Calls an operation; of the KMS if its name has no service.
    pub(super) fn call(&self, caller: &Caller, operation: &str, input: Value) -> Result<Value, Error> {
        let name = if operation.contains(':') { operation.to_owned() } else { format!("kms:{operation}") };
        self.service.aws(caller, find(&name).unwrap_or_else(|| panic!("{name}")), input)
    }

    /// Calls an operation that succeeds, and checks its answer against AWS's model.
    pub(super) fn ok(&self, caller: &Caller, operation: &str, input: Value) -> Value {
        let shown = input.to_string();
        let answer = self.call(caller, operation, input);
        let answer = answer.unwrap_or_else(|e| panic!("{operation} {shown}: {}: {}", e.aws(), e.line()));
        self.checked(operation, &answer);
        answer
    }

    /// Checks an answer against AWS's model.
    pub(super) fn checked(&self, operation: &str, answer: &Value) {
        let checked = check_shape(operation.trim_start_matches("sts:"), answer);
        checked.unwrap_or_else(|why| panic!("{operation}: {why}: {answer}"));
    }

    /// The same caller with another request.
    pub(super) fn again(&self, caller: &Caller) -> Caller {
        let id = format!("request-{}", self.requests.fetch_add(1, Ordering::Relaxed));
        let request = RequestInfo { id, ..(**caller.request.as_ref().unwrap()).clone() };
        Caller { request: Some(Arc::new(request)), ..caller.clone() }
    }

    pub(super) fn arn(&self, caller: &Caller, key: &str) -> String {
        text(&self.ok(caller, "DescribeKey", json!({"KeyId": key}))["KeyMetadata"]["Arn"])
    }

    /// Calls an operation that fails, and returns AWS's code.
    pub(super) fn err(&self, caller: &Caller, operation: &str, input: Value) -> &'static str {
        let shown = input.to_string();
        match self.call(caller, operation, input) {
            Err(e) => e.aws(),
            Ok(answer) => panic!("{operation} {shown} answers {answer}"),
        }
    }

    /// Creates a key, and returns its ARN.
    pub(super) fn key(&self, caller: &Caller, input: Value) -> String {
        text(&self.ok(caller, "CreateKey", input)["KeyMetadata"]["Arn"])
    }

    /// A key's state.
    pub(super) fn state(&self, caller: &Caller, key: &str) -> String {
        text(&self.ok(caller, "DescribeKey", json!({"KeyId": key}))["KeyMetadata"]["KeyState"])
    }

    /// Everything in the audit, oldest first.
    pub(super) fn events(&self) -> Vec<AuditEvent> {
        let (mut all, mut from) = (Vec::new(), None);
        loop {
            let page = self.service.ledger().events(&Filter::default(), from.as_deref(), 1000).unwrap();
            all.extend(page.records);
            match page.next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        all.reverse();
        all
    }

    /// Imports material into a key, wrapped by OpenSSL. `more` has further members of the request.
    pub(super) fn import(&self, caller: &Caller, key: &str, material: &[u8], more: Value) -> Result<Value, Error> {
        let asked = json!({"KeyId": key, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"});
        let given = self.ok(caller, "GetParametersForImport", asked);
        let wrapped = oaep(&bytes(&given["PublicKey"]), material);
        let mut asked =
            json!({"KeyId": key, "ImportToken": given["ImportToken"], "EncryptedKeyMaterial": b64(&wrapped)});
        if more.get("ValidTo").is_none() {
            asked["ExpirationModel"] = "KEY_MATERIAL_DOES_NOT_EXPIRE".into();
        }
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.call(caller, "ImportKeyMaterial", asked)
    }
}

/// RSAES-OAEP with SHA-256, by OpenSSL, under a public key (SubjectPublicKeyInfo).
pub(super) fn oaep(public: &[u8], plain: &[u8]) -> Vec<u8> {
    let public = openssl::pkey::PKey::public_key_from_der(public).unwrap();
    let mut by = openssl::encrypt::Encrypter::new(&public).unwrap();
    by.set_rsa_padding(openssl::rsa::Padding::PKCS1_OAEP).unwrap();
    by.set_rsa_oaep_md(openssl::hash::MessageDigest::sha256()).unwrap();
    by.set_rsa_mgf1_md(openssl::hash::MessageDigest::sha256()).unwrap();
    let mut out = vec![0; by.encrypt_len(plain).unwrap()];
    let len = by.encrypt(plain, &mut out).unwrap();
    out.truncate(len);
    out
}

pub(super) fn b64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(super) fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string")).to_owned()
}

fn statement(effect: &str, action: &str, resource: Option<&str>, principal: Option<Value>) -> Value {
    let mut one = json!({"Effect": effect, "Action": action});
    if let Some(resource) = resource {
        one["Resource"] = resource.into();
    }
    if let Some(principal) = principal {
        one["Principal"] = principal;
    }
    json!({"Version": "2012-10-17", "Statement": [one]})
}

/// An identity policy.
pub(super) fn identity(effect: &str, action: &str, resource: &str) -> Value {
    statement(effect, action, Some(resource), None)
}

/// Several policies in one.
pub(super) fn joined(policies: &[Value]) -> Value {
    let all: Vec<Value> = policies.iter().flat_map(|p| p["Statement"].as_array().unwrap().clone()).collect();
    json!({"Version": "2012-10-17", "Statement": all})
}

/// A statement of a key policy, for a principal.
pub(super) fn key_policy(effect: &str, action: &str, principal: &str) -> Value {
    statement(effect, action, Some("*"), Some(json!({"AWS": principal})))
}

pub(super) fn root_of(account: &str) -> String {
    format!("arn:aws:iam::{account}:root")
}

/// The members of AWS's answers and their types: KMS API model of 2014-11-01 and STS of 2011-06-15. `?`: need not be there.
const SHAPES: &str = "\
    CancelKeyDeletion KeyId:string;CreateAlias;CreateGrant GrantToken:string GrantId:string;\
    CreateKey KeyMetadata:KeyMetadata;\
    Decrypt KeyId:string Plaintext:blob EncryptionAlgorithm:string KeyMaterialId?:string;DeleteAlias;\
    DeleteImportedKeyMaterial KeyId:string KeyMaterialId:string;\
    DeriveSharedSecret KeyId:string SharedSecret:blob KeyAgreementAlgorithm:string KeyOrigin:string;\
    DescribeKey KeyMetadata:KeyMetadata;DisableKey;DisableKeyRotation;EnableKey;EnableKeyRotation;\
    Encrypt CiphertextBlob:blob KeyId:string EncryptionAlgorithm:string;\
    GenerateDataKey CiphertextBlob:blob Plaintext:blob KeyId:string KeyMaterialId:string;\
    GenerateDataKeyPair PrivateKeyCiphertextBlob:blob PrivateKeyPlaintext:blob PublicKey:blob KeyId:string \
    KeyPairSpec:string KeyMaterialId:string;\
    GenerateDataKeyPairWithoutPlaintext PrivateKeyCiphertextBlob:blob PublicKey:blob KeyId:string KeyPairSpec:string \
    KeyMaterialId:string;\
    GenerateDataKeyWithoutPlaintext CiphertextBlob:blob KeyId:string KeyMaterialId:string;\
    GenerateMac Mac:blob MacAlgorithm:string KeyId:string;GenerateRandom Plaintext:blob;\
    GetKeyLastUsage KeyId:string KeyLastUsage:KeyLastUsageData TrackingStartDate:time KeyCreationDate:time;\
    KeyLastUsageData Operation?:string Timestamp?:time CloudTrailEventId?:string KmsRequestId?:string;\
    GetKeyPolicy Policy:string PolicyName:string;\
    GetKeyRotationStatus KeyRotationEnabled:bool KeyId:string RotationPeriodInDays?:int NextRotationDate?:time;\
    GetParametersForImport KeyId:string ImportToken:blob PublicKey:blob ParametersValidTo:time;\
    GetPublicKey KeyId:string PublicKey:blob CustomerMasterKeySpec:string KeySpec:string KeyUsage:string \
    EncryptionAlgorithms?:[string] SigningAlgorithms?:[string] KeyAgreementAlgorithms?:[string];\
    ImportKeyMaterial KeyId:string KeyMaterialId:string;\
    ListAliases Aliases:[AliasListEntry] NextMarker?:string Truncated:bool;\
    ListGrants Grants:[GrantListEntry] NextMarker?:string Truncated:bool;\
    ListKeyPolicies PolicyNames:[string] NextMarker?:string Truncated:bool;\
    ListKeyRotations Rotations:[RotationsListEntry] NextMarker?:string Truncated:bool;\
    ListKeys Keys:[KeyListEntry] NextMarker?:string Truncated:bool;\
    ListResourceTags Tags:[Tag] NextMarker?:string Truncated:bool;\
    ListRetirableGrants Grants:[GrantListEntry] NextMarker?:string Truncated:bool;PutKeyPolicy;\
    ReEncrypt CiphertextBlob:blob SourceKeyId:string KeyId:string SourceEncryptionAlgorithm:string \
    DestinationEncryptionAlgorithm:string SourceKeyMaterialId?:string DestinationKeyMaterialId?:string;\
    ReplicateKey ReplicaKeyMetadata:KeyMetadata ReplicaPolicy:string ReplicaTags:[Tag];RetireGrant;RevokeGrant;\
    RotateKeyOnDemand KeyId:string;\
    ScheduleKeyDeletion KeyId:string DeletionDate?:time KeyState:string PendingWindowInDays:int;\
    Sign KeyId:string Signature:blob SigningAlgorithm:string;TagResource;UntagResource;UpdateAlias;\
    UpdateKeyDescription;UpdatePrimaryRegion;\
    Verify KeyId:string SignatureValid:bool SigningAlgorithm:string;\
    VerifyMac KeyId:string MacValid:bool MacAlgorithm:string;\
    AliasListEntry AliasName:string AliasArn:string TargetKeyId:string CreationDate:time LastUpdatedDate:time;\
    GrantListEntry KeyId:string GrantId:string Name:string CreationDate:time GranteePrincipal:string \
    RetiringPrincipal?:string IssuingAccount:string Operations:[string] Constraints?:GrantConstraints;\
    KeyListEntry KeyId:string KeyArn:string;\
    KeyMetadata AWSAccountId:string KeyId:string Arn:string CreationDate:time Enabled:bool Description:string \
    KeyUsage:string KeyState:string DeletionDate?:time ValidTo?:time Origin:string ExpirationModel?:string \
    KeyManager:string CustomerMasterKeySpec:string KeySpec:string EncryptionAlgorithms?:[string] \
    SigningAlgorithms?:[string] KeyAgreementAlgorithms?:[string] MultiRegion:bool \
    MultiRegionConfiguration?:MultiRegionConfiguration PendingDeletionWindowInDays?:int MacAlgorithms?:[string] \
    CurrentKeyMaterialId?:string;\
    RotationsListEntry KeyId:string KeyMaterialId:string KeyMaterialDescription?:string ImportState?:string \
    KeyMaterialState?:string ExpirationModel?:string ValidTo?:time RotationDate?:time RotationType?:string;\
    Tag TagKey:string TagValue:string;\
    GrantConstraints EncryptionContextSubset?:map EncryptionContextEquals?:map;\
    MultiRegionConfiguration MultiRegionKeyType:string PrimaryKey:MultiRegionKey ReplicaKeys:[MultiRegionKey];\
    MultiRegionKey Arn:string Region:string;\
    GetCallerIdentity UserId:string Account:string Arn:string;\
    AssumeRole Credentials:Credentials AssumedRoleUser:AssumedRoleUser PackedPolicySize:int;\
    GetSessionToken Credentials:Credentials;\
    Credentials AccessKeyId:string SecretAccessKey:string SessionToken:string Expiration:string;\
    AssumedRoleUser AssumedRoleId:string Arn:string";

fn check_type(kind: &str, value: &Value) -> Result<(), String> {
    if let Some(of) = kind.strip_prefix('[').and_then(|k| k.strip_suffix(']')) {
        let list = value.as_array().ok_or_else(|| format!("{value} is no list"))?;
        return list.iter().try_for_each(|one| check_type(of, one));
    }
    let fits = match kind {
        "string" => value.is_string(),
        "blob" => value.as_str().is_some_and(|text| STANDARD.decode(text).is_ok_and(|b| !b.is_empty())),
        "bool" => value.is_boolean(),
        "int" => value.is_u64(),
        // Seconds since 1970, of this century.
        "time" => value.as_f64().is_some_and(|at| (1e9..1e10).contains(&at)),
        "map" => value.as_object().is_some_and(|map| map.values().all(Value::is_string)),
        shape => return check_shape(shape, value),
    };
    if fits { Ok(()) } else { Err(format!("{value} is no {kind}")) }
}

/// Whether a structure has all members that it must have, and no others, of their types.
fn check_shape(shape: &str, value: &Value) -> Result<(), String> {
    let line = SHAPES.split(';').map(str::trim).find(|line| line.split(' ').next() == Some(shape));
    let members: Vec<(&str, &str)> = line
        .ok_or_else(|| format!("no shape {shape}"))?
        .split_whitespace()
        .skip(1)
        .map(|member| member.split_once(':').unwrap())
        .collect();
    let given = value.as_object().ok_or_else(|| format!("{value} is no {shape}"))?;
    for (name, kind) in &members {
        match (given.get(name.trim_end_matches('?')), name.ends_with('?')) {
            (Some(found), _) => check_type(kind, found).map_err(|why| format!("{shape}.{name}: {why}"))?,
            (None, true) => {}
            (None, false) => return Err(format!("{shape} has no {name}")),
        }
    }
    let known = |name: &&String| members.iter().any(|(m, _)| m.trim_end_matches('?') == **name);
    match given.keys().find(|name| !known(name)) {
        Some(other) => Err(format!("{shape} has a member {other}")),
        None => Ok(()),
    }
}

#[test]
fn the_check_of_shapes_finds_what_is_wrong() {
    let good = json!({"KeyId": "k", "GrantId": "g"});
    assert!(check_shape("KeyListEntry", &json!({"KeyId": "k", "KeyArn": "a"})).is_ok());
    assert!(check_shape("KeyListEntry", &good).is_err());
    assert!(check_shape("KeyListEntry", &json!({"KeyId": "k", "KeyArn": 1})).is_err());
    assert!(check_shape("KeyListEntry", &json!({"KeyId": "k", "KeyArn": "a", "X": 1})).is_err());
    let page = json!({"Keys": [{"KeyId": "k"}], "Truncated": false});
    assert!(check_shape("ListKeys", &page).is_err());
}
