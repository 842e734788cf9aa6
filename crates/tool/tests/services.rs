//! Pages about services: what they tell people to write is right. And `plan` as people call it.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use daemon::Exit;

fn streamsend(words: &[&str]) -> (Exit, String) {
    let mut out = Vec::new();
    let words = std::iter::once("streamsend").chain(words.iter().copied()).map(OsString::from);
    let exit = tool::run(words, &mut out);
    (exit, String::from_utf8(out).unwrap())
}

fn json(words: &[&str]) -> serde_json::Value {
    let (exit, said) = streamsend(&[words, &["--json"]].concat());
    assert_eq!(exit, Exit::Done, "{said}");
    serde_json::from_str(&said).unwrap()
}

#[test]
fn the_samples_in_the_page_about_oracles_service_are_correct() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/services/oci.md");
    let page = fs::read_to_string(page).unwrap();
    let top = tempfile::tempdir().unwrap();
    let token = top.path().join("oci-token");
    fs::write(&token, "secret-token\n").unwrap();
    let samples: Vec<&str> =
        page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(samples.len(), 2);
    for (sample, which) in samples.iter().zip(["uploader", "downloader"]) {
        assert!(sample.lines().count() <= 10, "{sample}");
        assert!(sample.starts_with(&format!("# /etc/streamsend/{which}.yaml\n")), "{sample}");
        let path = top.path().join(which);
        assert!(sample.contains("/etc/streamsend/oci-token"), "{sample}");
        fs::write(&path, sample.replace("/etc/streamsend/oci-token", &token.display().to_string())).unwrap();
        let config = path.display().to_string();
        let (exit, said) = streamsend(&["check-config", which, "--config", &config, "--explain"]);
        assert_eq!(exit, Exit::Done, "{said}");
        for part in ["profile oci", "sasl_ssl", "PLAIN", "at most 1000000 bytes", "never asked for"] {
            assert!(said.contains(part), "{part} not in {said}");
        }
        assert!(!said.contains("secret-token"), "{said}");
        // Recognised by the host name as well.
        fs::write(&path, fs::read_to_string(&path).unwrap().replace("kafka_profile: oci\n", "")).unwrap();
        let (_, said) = streamsend(&["check-config", which, "--config", &config, "--explain"]);
        assert!(said.contains("profile oci"), "{said}");
    }
}

#[test]
fn the_plan_in_the_page_is_what_the_tool_says() {
    let words = ["plan", "--profile", "oci", "--rate", "4.5MB/s", "--outage", "64h", "--volume", "1TB"];
    let plan = json(&words);
    assert_eq!((&plan["partitions"], &plan["decides"]), (&6.into(), &"write rate".into()));
    assert_eq!(plan["outage"]["retention_seconds"], 77 * 3600);
    // 10¹² ÷ 4.5 MB/s = 222,222.2 s.
    assert_eq!(plan["volume"]["seconds_at_rate"], 222_223);
    assert_eq!((&plan["fixed_later"], &plan["fits"]), (&true.into(), &true.into()));
    let (exit, said) = streamsend(&words);
    assert_eq!(exit, Exit::Done);
    for part in [
        "partitions  6, decided by: write rate",
        "cannot be changed later",
        "retention of 77h",
        "1.0 TB in 2 d",
    ] {
        assert!(said.contains(part), "{part} not in {said}");
    }
    // 1 GiB over ten partitions: 1,073,741,824 ÷ (10 × 985,000 × 983,040 ÷ 983,552) = 109.1 s, rounded up.
    let plan =
        json(&["plan", "--profile", "oci", "--rate", "10MB/s", "--headroom", "0%", "--volume", "1GiB"]);
    assert_eq!((&plan["partitions"], &plan["volume"]["seconds_at_capacity"]), (&10.into(), &110.into()));
}

#[test]
fn messages_and_folders_are_planned_too() {
    let plan = json(&["plan", "--profile", "oci", "--message-size", "300kB", "--messages-per-second", "15"]);
    assert_eq!((&plan["rate_bytes_per_second"], &plan["partitions"]), (&4_500_000.into(), &6.into()));
    let top = tempfile::tempdir().unwrap();
    for (name, bytes, seconds) in
        [("a", 3_600_000, 1_000_000), ("b", 3_600_000, 1_001_000), ("c", 100, 1_900_000)]
    {
        let path = top.path().join(name);
        let file = fs::File::create(&path).unwrap();
        file.set_len(bytes).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
    }
    let folder = top.path().display().to_string();
    let plan = json(&["plan", "--profile", "oci", "--directory", &folder]);
    // 7.2 MB in the busiest hour are 2,000 bytes a second.
    assert_eq!((&plan["rate_bytes_per_second"], &plan["partitions"]), (&2000.into(), &1.into()));
    assert_eq!(plan["volume"]["bytes"], 7_200_100);
    assert_eq!(plan["measured"]["files"], 3);
}

#[test]
fn a_plan_needs_one_load_and_good_numbers() {
    for text in [
        "plan",
        "plan --rate 1MB/s --directory /",
        "plan --rate 1MB",
        "plan --message-size 1MB",
        "plan --messages-per-second 3",
        "plan --rate 1MB/s --headroom 20",
        "plan --rate 1MB/s --profile cloud",
        "plan --rate 1MB/s --outage soon",
        "doctor both",
        "doctor --timeout soon",
    ] {
        assert_eq!(streamsend(&text.split(' ').collect::<Vec<_>>()).0, Exit::Usage, "{text}");
    }
    assert_eq!(streamsend(&["plan", "--directory", "/does/not/exist"]).0, Exit::Io);
    let (exit, said) = streamsend(&["plan", "--profile", "kafka", "--rate", "25MB/s"]);
    assert!(exit == Exit::Done && said.contains("is an assumption"), "{said}");
}
