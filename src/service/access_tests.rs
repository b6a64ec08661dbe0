//! A client that `coffer access` lists and an IAM user never have one ARN.

use super::*;
use crate::service::api::Reply;
use crate::service::operations::Doctor;
use crate::service::testing::{Fixture, request};
use serde_json::{Value, json};

fn refused(on: &Fixture, asked: Value, words: &str) {
    let err = on.ask(request(asked.clone())).unwrap_err();
    assert_eq!(err.kind(), Kind::Exists, "{asked}: {}", err.line());
    assert!(err.what().contains(words), "{asked}: {}", err.line());
}

fn done(on: &Fixture, asked: Value) {
    on.ask(request(asked)).unwrap();
}

#[test]
fn a_client_and_a_user_do_not_have_one_name() {
    let on = Fixture::with_volume(1 << 20);
    let allow = |name: &str, user: Option<&str>| json!({"action": "access-allow", "name": name, "user": user, "volumes": ["v"], "all": false});
    let token = |name: &str, user: Option<&str>| json!({"action": "access-token", "name": name, "user": user, "volumes": ["v"], "all": false});
    let user = |name: &str| json!({"action": "user-create", "name": name});
    done(&on, allow("web", None));
    done(&on, allow("cn:backup", Some("copier")));
    done(&on, token("ci", None));
    for name in ["web", "Web", "copier", "ci"] {
        refused(&on, user(name), "acts under that name");
    }
    done(&on, json!({"action": "account-create", "name": "other", "account": "444455556666"}));
    done(&on, json!({"action": "user-create", "name": "web", "account": "444455556666"}));
    done(&on, user("alice"));
    for asked in
        [allow("alice", None), allow("dns:alice", None), allow("db", Some("Alice")), allow("web", Some("alice"))]
    {
        refused(&on, asked, "that is an IAM user");
    }
    for asked in [token("alice", None), token("t", Some("alice"))] {
        refused(&on, asked, "that is an IAM user");
    }
    done(&on, json!({"action": "access-deny", "name": "web"}));
    done(&on, user("web"));
    done(&on, json!({"action": "principal-delete", "principal": "user/alice"}));
    done(&on, allow("alice", None));
}

/// Earlier versions created both.
#[test]
fn doctor_names_a_client_with_the_arn_of_a_user() {
    let on = Fixture::with_volume(1 << 20);
    let about = || {
        let Reply::Findings { findings } = on.ask(Doctor {}.into()).unwrap() else { panic!("another answer") };
        findings.into_iter().filter(|f| f.check == "access").collect::<Vec<_>>()
    };
    done(&on, json!({"action": "access-allow", "name": "web", "volumes": ["v"], "all": false}));
    assert_eq!(about(), []);
    let (iam, owner) = (on.service.kms.iam(), on.service.caller_of(0, "test").unwrap());
    let account = on.service.kms.installation().account.clone();
    let new = crate::iam::NewUser { account, name: "web".into(), ..Default::default() };
    iam.create_user(new, &owner).unwrap();
    let [found] = &about()[..] else { panic!("{:?}", about()) };
    assert!(found.message.contains("user/web") && found.message.contains("coffer access"), "{}", found.message);
}
