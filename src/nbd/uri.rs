//! NBD URIs (the NBD project's "NBD URI specification"): `nbd+unix:///EXPORT?socket=PATH`, `nbd://HOST:PORT/EXPORT`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All bytes except those that a URI takes unencoded ("unreserved", RFC 3986).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same set, for a path: `/` stays unencoded too.
const RESERVED_IN_PATH: &AsciiSet = &RESERVED.remove(b'/');

/// Returns the NBD URI of an export at an endpoint (`unix:PATH` or `tcp:HOST:PORT`), and the path of its Unix socket; empty for
/// TCP.
#[must_use]
pub fn uri(endpoint: &str, export: &str, tls: bool) -> (String, String) {
    let export = utf8_percent_encode(export, RESERVED);
    match endpoint.strip_prefix("unix:") {
        Some(path) => {
            let encoded = utf8_percent_encode(path, RESERVED_IN_PATH);
            (format!("nbd+unix:///{export}?socket={encoded}"), path.to_owned())
        }
        None => {
            let scheme = if tls { "nbds" } else { "nbd" };
            (format!("{scheme}://{}/{export}", endpoint.trim_start_matches("tcp:")), String::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_a_uri_is_encoded() {
        let of = |endpoint, export| uri(endpoint, export, false).0;
        assert_eq!(of("unix:/run/nbd.sock", "web-1.a_b"), "nbd+unix:///web-1.a_b?socket=/run/nbd.sock");
        let odd = "unix:/tmp/a b&c=d?e#f%g+h\u{fc}/s";
        assert_eq!(of(odd, "w"), "nbd+unix:///w?socket=/tmp/a%20b%26c%3Dd%3Fe%23f%25g%2Bh%C3%BC/s");
        assert_eq!(uri(odd, "w", false).1, &odd[5..], "the path itself stays");
        assert_eq!(of("unix:/s", "web?ro"), "nbd+unix:///web%3Fro?socket=/s");
        assert_eq!(of("tcp:[::1]:10809", "a/b"), "nbd://[::1]:10809/a%2Fb");
        assert_eq!(uri("tcp:127.0.0.1:1", "web", true), ("nbds://127.0.0.1:1/web".to_owned(), String::new()));
    }
}
