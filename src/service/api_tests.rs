use super::*;
use crate::error::AwsCode;
use std::path::Path;

/// Each code that stands in the sources.
fn codes() -> Vec<String> {
    fn walk(dir: &Path, out: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let after = text.split("AwsCode(\"").skip(1);
                out.extend(after.filter_map(|rest| rest.split('"').next().map(str::to_owned)));
            }
        }
    }
    let mut out = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kms"), &mut out);
    out.sort();
    out.dedup();
    out
}

#[test]
fn every_aws_code_is_the_same_on_both_ends_of_the_socket() {
    let codes = codes();
    for known in ["DisabledException", "IncorrectKeyException", "LimitExceededException", "InvalidArnException"] {
        assert!(codes.iter().any(|c| c == known), "{known} is not seen in {codes:?}");
    }
    for code in codes {
        let err = Error::new(Kind::KeyUnavailable, "use the key").because(AwsCode(code.clone().leak())).hint("do it");
        let sent = serde_json::to_string(&WireError::from(&err)).unwrap();
        let heard = Error::from(serde_json::from_str::<WireError>(&sent).unwrap());
        assert_eq!((heard.aws(), heard.kind(), heard.line()), (&*code, err.kind(), err.line()));
        // A program that asks the command line for JSON gets the same again, also behind a wider error.
        let shown = WireError::from(&heard.context("attach web"));
        assert_eq!(shown.code, code);
    }
    let plain = Error::new(Kind::Busy, "x");
    assert_eq!(Error::from(WireError::from(&plain)).aws(), Kind::Busy.row().aws);
}

#[test]
fn plaintext_is_hexadecimal_on_the_way_and_the_same_behind_it() {
    let all: Vec<u8> = (0..=255).collect();
    let plain = Plain::of(&all);
    assert_eq!(serde_json::to_string(&plain).unwrap(), format!("\"{}\"", hex::encode(&all)));
    assert_eq!(*plain.bytes().unwrap(), all);
    for bad in ["\"0\"", "\"0g\""] {
        assert_eq!(serde_json::from_str::<Plain>(bad).unwrap().bytes().unwrap_err().kind(), Kind::Usage, "{bad}");
    }
}
