//! An alias that is moved while a request runs: the request is about the key that it referred to at first.

use super::testing::{A, installed};
use crate::env::{Clock, Env, Timestamp};
use crate::kms::{Authority, Caller, KeyRef};
use crate::service::testing::request;
use crate::service::{Role, Service};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;

type Step = Box<dyn FnOnce() + Send>;

/// A clock that does something when it is next read: a decision about a request reads it.
#[derive(Clone, Default)]
struct Ambush(Arc<Mutex<Option<Step>>>);

impl Clock for Ambush {
    fn now(&self) -> Timestamp {
        let step = self.0.lock().take();
        step.into_iter().for_each(|step| step());
        Timestamp(1_800_000_000_000)
    }
    fn since_boot(&self) -> i64 {
        1000
    }
}

fn ask(service: &Arc<Service>, caller: &Caller, asked: Value) -> Value {
    let answer = service.handle(caller, request(asked.clone()), &mut |_| true);
    serde_json::to_value(answer.unwrap_or_else(|e| panic!("{asked}: {}", e.line()))).unwrap()
}

#[test]
fn a_request_is_about_the_key_that_its_alias_first_referred_to() {
    let (dir, ambush) = (tempfile::tempdir().unwrap(), Ambush::default());
    let env = Env { clock: Arc::new(ambush.clone()), ..Env::system() };
    let service = installed(&dir, env, Role::Daemon);
    let owner = service.caller_of(0, "test").unwrap();
    let user = Caller::new(format!("arn:aws:iam::{A}:user/uid-1000"), "test", Authority::Nothing);
    let policy = |allowed: bool| {
        let mut statements =
            vec![json!({"Effect": "Allow", "Principal": {"AWS": A}, "Action": "kms:*", "Resource": "*"})];
        let of_user =
            json!({"Effect": "Allow", "Principal": {"AWS": user.principal}, "Action": "kms:*", "Resource": "*"});
        statements.extend(allowed.then_some(of_user));
        json!({"Version": "2012-10-17", "Statement": statements}).to_string()
    };
    let key = |alias: &str, allowed: bool| {
        let asked = json!({"action": "key-create", "alias": alias, "description": alias, "policy": policy(allowed)});
        ask(&service, &owner, asked)["arn"].as_str().unwrap().to_owned()
    };
    let (own, secret) = (key("alias/own", true), key("alias/secret", false));
    ask(
        &service,
        &owner,
        json!({"action": "grant-create", "key": secret, "grantee": user.principal, "operations": ["Decrypt"]}),
    );
    for verb in ["key-show", "key-policy-show", "grant-list", "key-rotate", "key-disable", "key-enable"] {
        let asked = json!({"action": verb, "key": "alias/own"});
        let (moving, to, by) = (Arc::downgrade(&service), secret.clone(), owner.clone());
        *ambush.0.lock() = Some(Box::new(move || {
            let service = moving.upgrade().unwrap();
            // Changes are made in a transaction, which nothing moves an alias in.
            let _nested = service.kms.aliases().update("alias/own", &to.parse::<KeyRef>().unwrap(), &by);
        }));
        let answer = ask(&service, &user, asked).to_string();
        assert!(!answer.contains(&secret), "{verb}: {answer}");
        assert!(answer.contains(&own) || verb == "grant-list", "{verb}: {answer}");
        let back = service.kms.aliases().update("alias/own", &own.parse().unwrap(), &owner);
        back.unwrap_or_else(|e| panic!("{verb}: {}", e.line()));
        let of_user = service.ledger().newest_audit_records(50).unwrap().into_iter().map(|r| r.body);
        let mut of_user = of_user.filter(|b| b.caller.as_ref().is_some_and(|c| c.principal == user.principal));
        assert!(of_user.all(|b| b.key.is_none_or(|k| k == own)), "{verb}");
    }
}
