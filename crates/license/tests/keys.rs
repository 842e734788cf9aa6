//! A licence key from the outside: issued, checked, and changed in every way.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use jiff::{SignedDuration, Timestamp};
use license::*;
use proptest::prelude::*;

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn hours(n: i64) -> SignedDuration {
    SignedDuration::from_hours(n)
}

fn terms() -> Terms {
    Terms {
        id: Some("L-1".into()),
        issued_to: "Example Ltd".into(),
        not_before: now() - hours(24),
        expires: now() + hours(39 * 24 + 5),
        features: vec![MULTI_PARTITION.into()],
    }
}

/// Signs any payload, valid or not, as only the vendor could.
fn sign(secret: &VendorSecret, payload: &[u8]) -> String {
    let seed: [u8; 32] =
        base64::engine::general_purpose::STANDARD.decode(secret.to_base64()).unwrap().try_into().unwrap();
    let signed = format!("streamsend-license-v1.{}", URL_SAFE_NO_PAD.encode(payload));
    let signature = SigningKey::from_bytes(&seed).sign(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

#[test]
fn an_issued_licence_holds_and_says_what_was_asked_for() {
    let secret = keygen().unwrap();
    let key = issue(&secret, &terms()).unwrap();
    let found = check(&key, &secret.public(), now()).unwrap();
    assert_eq!(found.id, "L-1");
    assert_eq!(found.issued_to, "Example Ltd");
    assert_eq!(found.not_before, terms().not_before);
    assert_eq!(found.expires, terms().expires);
    assert_eq!(found.features, [MULTI_PARTITION]);
    assert_eq!(parse_unverified(&key).unwrap(), found);
    assert!(!key.contains('='));
    assert_eq!(key.matches('.').count(), 2);
}

#[test]
fn days_left_counts_whole_days() {
    let secret = keygen().unwrap();
    let found = check(&issue(&secret, &terms()).unwrap(), &secret.public(), now()).unwrap();
    assert_eq!(found.days_left(now()), 39);
    assert_eq!(found.days_left(found.expires - hours(24)), 1);
    assert_eq!(found.days_left(found.expires - hours(23)), 0);
    assert_eq!(found.days_left(found.expires + hours(100)), 0);
    assert_eq!(found.days_left(Timestamp::MAX), 0);
    assert!(found.days_left(Timestamp::MIN) > 0);
}

#[test]
fn the_times_are_a_half_open_interval() {
    let secret = keygen().unwrap();
    let key = issue(&secret, &terms()).unwrap();
    let at = |time| check(&key, &secret.public(), time);
    let tick = SignedDuration::from_nanos(1);
    assert!(at(terms().not_before).is_ok());
    assert!(at(terms().expires - tick).is_ok());
    assert_eq!(at(terms().expires), Err(Invalid::Expired { expires: terms().expires }));
    let early = at(terms().not_before - tick).unwrap_err();
    assert_eq!(early.to_string(), "not yet valid until 2026-02-28 12:00:00 UTC");
    assert_eq!(at(Timestamp::MAX).unwrap_err().to_string(), "expired on 2026-04-09 17:00:00 UTC");
}

#[test]
fn another_vendors_licence_is_refused() {
    let key = issue(&keygen().unwrap(), &terms()).unwrap();
    let refused = check(&key, &keygen().unwrap().public(), now());
    assert_eq!(refused, Err(Invalid::BadSignature));
}

#[test]
fn changing_any_one_byte_breaks_it() {
    let secret = keygen().unwrap();
    let key = issue(&secret, &terms()).unwrap();
    for position in 0..key.len() {
        for replacement in (0x21..0x7f_u8).filter(|&byte| byte != key.as_bytes()[position]) {
            let mut bytes = key.clone().into_bytes();
            bytes[position] = replacement;
            let changed = String::from_utf8(bytes).unwrap();
            assert!(check(&changed, &secret.public(), now()).is_err(), "byte {position} to {replacement:#x}");
        }
    }
}

#[test]
fn cutting_it_or_adding_to_it_breaks_it() {
    let secret = keygen().unwrap();
    let key = issue(&secret, &terms()).unwrap();
    for length in 0..key.len() {
        assert!(check(&key[..length], &secret.public(), now()).is_err(), "cut to {length}");
    }
    for tail in ["=", "A", ".", ".AAAA", "\0", " x", "\nstreamsend-license-v1.e30.AAAA"] {
        assert!(check(&format!("{key}{tail}"), &secret.public(), now()).is_err(), "{tail:?} added");
    }
    assert!(check(&format!("{key}\n{key}"), &secret.public(), now()).is_err());
}

#[test]
fn white_space_around_it_is_harmless_and_inside_it_is_not() {
    let secret = keygen().unwrap();
    let key = issue(&secret, &terms()).unwrap();
    assert!(check(&format!("\u{feff}{key}"), &secret.public(), now()).is_err());
    assert!(check(&format!("\n \t{key}\r\n\n"), &secret.public(), now()).is_ok());
    let broken = key.replacen('.', ". ", 1);
    assert!(matches!(check(&broken, &secret.public(), now()), Err(Invalid::Malformed(_))));
}

#[test]
fn signed_nonsense_is_malformed_and_not_believed() {
    let secret = keygen().unwrap();
    let bad: &[&[u8]] = &[
        b"",
        b"not json",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        br#"{"id":1,"issued_to":"x","not_before":"2026-01-01T00:00:00Z","expires":"2027-01-01T00:00:00Z","features":[]}"#,
        br#"{"id":"a","id":"b","issued_to":"x","not_before":"2026-01-01T00:00:00Z","expires":"2027-01-01T00:00:00Z","features":["multi-partition"]}"#,
        br#"{"id":"a","issued_to":"x","not_before":"yesterday","expires":"2027-01-01T00:00:00Z","features":["multi-partition"]}"#,
        br#"{"id":"a","issued_to":"x","not_before":"2026-01-01T00:00:00Z","expires":"2027-13-01T00:00:00Z","features":["multi-partition"]}"#,
        br#"{"id":"a","issued_to":"x","not_before":"2026-01-01T00:00:00Z","expires":"2027-01-01T00:00:00Z","features":"multi-partition"}"#,
    ];
    for payload in bad {
        let refused = check(&sign(&secret, payload), &secret.public(), now());
        assert!(matches!(refused, Err(Invalid::Malformed(_))), "{}: {refused:?}", payload.escape_ascii());
    }
    let deep = sign(&secret, "[".repeat(40_000).as_bytes());
    assert!(matches!(check(&deep, &secret.public(), now()), Err(Invalid::Malformed(_))));
}

#[test]
fn a_member_of_a_later_version_is_allowed() {
    let secret = keygen().unwrap();
    let payload = br#"{"id":"a","issued_to":"x","not_before":"2026-01-01T00:00:00+01:00","expires":"2027-01-01T00:00:00Z","features":["other","multi-partition"],"seats":3}"#;
    assert!(check(&sign(&secret, payload), &secret.public(), now()).is_ok());
}

#[test]
fn each_mistake_has_its_own_reason() {
    let secret = keygen().unwrap();
    let vendor = secret.public();
    let reason = |text: &str| check(text, &vendor, now()).unwrap_err().to_string();
    assert_eq!(reason(""), "the license key is empty");
    assert_eq!(reason(" \n"), "the license key is empty");
    assert_eq!(
        reason("streamsend-license-v2.AA.AA"),
        "the license key has format version \"2\", this program reads version 1: ask for a new key"
    );
    assert_eq!(reason("hello"), "malformed license key: it does not begin with \"streamsend-license-v1.\"");
    assert_eq!(
        reason("streamsend-license-v1.e30"),
        "malformed license key: it must have three parts with a dot between them"
    );
    assert!(reason(&"x".repeat(KEY_TEXT_BYTES_MAX + 1)).contains("longer than 65536 bytes"));
    let other = issue(&secret, &Terms { features: vec!["something-else".into()], ..terms() }).unwrap();
    assert_eq!(reason(&other), "does not include the feature \"multi-partition\"");
}

#[test]
fn terms_that_make_no_sense_are_not_signed() {
    let secret = keygen().unwrap();
    let refused = |terms: Terms| issue(&secret, &terms).unwrap_err();
    assert!(matches!(
        refused(Terms { expires: now() - hours(48), ..terms() }),
        IssueError::NeverValid { .. }
    ));
    assert!(matches!(refused(Terms { issued_to: " ".into(), ..terms() }), IssueError::BadText(_)));
    assert!(matches!(refused(Terms { issued_to: "a\nb".into(), ..terms() }), IssueError::BadText(_)));
    assert!(matches!(refused(Terms { issued_to: "a".repeat(70_000), ..terms() }), IssueError::TooLong));
    let drawn = |_| parse_unverified(&issue(&secret, &Terms { id: None, ..terms() }).unwrap()).unwrap().id;
    let ids: Vec<String> = (0..2).map(drawn).collect();
    assert!(ids[0].len() == 16 && ids[0] != ids[1]);
}

#[test]
fn a_key_file_is_checked_with_all_its_own_mistakes() {
    let secret = keygen().unwrap();
    let vendor = secret.public();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("license.key");
    let result = || check_file(&file, Some(&vendor), now());
    assert!(matches!(result(), Err(Invalid::Unreadable { .. })));
    std::fs::write(&file, "\n").unwrap();
    assert_eq!(result(), Err(Invalid::Empty));
    std::fs::write(&file, b"\xff\xfe\x00").unwrap();
    assert!(matches!(result(), Err(Invalid::Malformed(_))));
    std::fs::write(&file, vec![b' '; KEY_TEXT_BYTES_MAX + 10]).unwrap();
    assert_eq!(result(), Err(Invalid::TooLong));
    std::fs::write(&file, issue(&secret, &terms()).unwrap() + "\n").unwrap();
    assert!(result().is_ok());
    assert_eq!(check_file(&file, None, now()), Err(Invalid::NoVendorKey));
    assert!(matches!(check_file(directory.path(), Some(&vendor), now()), Err(Invalid::Unreadable { .. })));
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        let vendor = keygen().unwrap().public();
        prop_assert!(check(&text, &vendor, now()).is_err());
        let _ = VendorKey::from_base64(&text);
        let _ = check(&format!("streamsend-license-v1.{text}"), &vendor, now());
    }
}
