//! What systemd hands to a daemon that it starts.

use super::*;

#[test]
fn a_unit_gives_a_default_state_directory_and_credentials() {
    let base = || {
        up("spool: /s\nkafka.sasl.password: {credential: password}\nlicense.key_file: {credential: key}\n")
    };
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [("password", "password-xyzzy\n"), ("streamsend_key", "the licence\n")] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let case = base()
        .env("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap())
        .env("STATE_DIRECTORY", "/var/lib/streamsend/uploader-a");
    let settings = case.uploader();
    assert_eq!(settings.common.kafka["sasl.password"], "password-xyzzy");
    assert_eq!(settings.common.license.key_file, Some(folder.path().join("streamsend_key")));
    assert_eq!(settings.common.state_directory, Path::new("/var/lib/streamsend/uploader-a"));
    let shown = report(&case.resolve()).explain();
    assert!(shown.contains("(hidden)") && !shown.contains("xyzzy"), "{shown}");
    let given = up("spool: /s\nstate_directory: /mine\n").env("STATE_DIRECTORY", "/var/lib/x").uploader();
    assert_eq!(given.common.state_directory, Path::new("/mine"), "what the file says holds");
    let several = up("spool: /s\n").env("STATE_DIRECTORY", "/a:/b").uploader();
    assert_eq!(several.common.state_directory, Path::new("/var/lib/streamsend/uploader"));
    let mistakes = base().mistakes();
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    assert!(mistakes.iter().all(|mistake| mistake.contains("systemd")), "{mistakes:?}");
}
