use super::*;

#[test]
fn every_reason_is_the_same_on_both_ends_of_the_socket() {
    for reason in Reason::ALL.iter().copied() {
        let err = Error::new(Kind::KeyUnavailable, "use the key").reason(reason).hint("do it");
        let sent = serde_json::to_string(&WireError::from(&err)).unwrap();
        let heard = Error::from(serde_json::from_str::<WireError>(&sent).unwrap());
        assert_eq!((heard.why(), heard.kind(), heard.line()), (Some(reason), err.kind(), err.line()));
        assert_eq!(heard.line(), "use the key (do it)", "words for people hold no code");
        // A program that asks the command line for JSON gets the same again, also behind a wider error.
        let shown = WireError::from(&heard.context("attach web"));
        assert_eq!(shown.code, reason.aws());
    }
    let plain = Error::new(Kind::Busy, "x");
    assert_eq!(Error::from(WireError::from(&plain)).aws(), Kind::Busy.aws());
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
