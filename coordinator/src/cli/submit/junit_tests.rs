use super::*;
use api::task::CommandOutput;
use std::process::Command;

fn verdict(kind: Kind, message: &str, stdout: &str) -> Verdict {
    let output = CommandOutput { stdout: stdout.into(), ..CommandOutput::default() };
    Verdict { kind, message: message.into(), output, seconds: 1.25 }
}

fn written(tasks: usize, cases: &[(usize, &str, Verdict)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.xml");
    let mut junit = Junit::create(&path, tasks).unwrap();
    for (number, line, verdict) in cases {
        junit.add(*number, line, verdict).unwrap();
    }
    let run =
        Run { run_id: "run-<1>", started_at: jiff::Timestamp::UNIX_EPOCH, took: Duration::from_millis(1500) };
    junit.write(&run).unwrap();
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["out.xml"], "nothing else is left");
    std::fs::read_to_string(&path).unwrap()
}

/// What an outside parser reads: each case's name and class name, failure and error types.
fn parsed(xml: &str) -> Option<Vec<String>> {
    const SCRIPT: &str = r#"
import sys, xml.etree.ElementTree as tree
root = tree.fromstring(sys.stdin.buffer.read())
suite = root.find("testsuite")
out = [":".join(root.get(k) for k in ("tests", "failures", "errors"))]
for case in suite.findall("testcase"):
    bad = [child.tag + "=" + child.get("type") for child in case if child.tag in ("failure", "error")]
    out.append("\x1f".join([case.get("name"), case.get("classname")] + bad))
sys.stdout.buffer.write("\x1e".join(out).encode())
"#;
    use std::process::Stdio;
    let mut python = Command::new("python3")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    python.stdin.take()?.write_all(xml.as_bytes()).ok()?;
    let output = python.wait_with_output().ok()?;
    assert!(output.status.success(), "the file is not well-formed:\n{xml}");
    Some(String::from_utf8(output.stdout).unwrap().split('\x1e').map(str::to_owned).collect())
}

#[test]
fn every_task_is_there_once_in_order_with_right_totals() {
    let xml = written(
        4,
        &[
            (
                2,
                "tests/test_a.py::TestX::test_c[a::b]",
                verdict(Kind::Error("timeout"), "timed out after 5 s", ""),
            ),
            (0, "tests/test_a.py::test_a", verdict(Kind::Passed, "", "fine\n")),
            (
                1,
                "make 'b' && <c>",
                verdict(Kind::Failed("exit_code"), "exit code \"1\"\nsecond", "a < b ]]> c"),
            ),
            (1, "twice", verdict(Kind::Passed, "", "")),
            (3, "d", verdict(Kind::Unknown, "not known", "")),
        ],
    );
    for part in [
        r#"<testsuites name="holdfast" tests="4" failures="1" errors="2" skipped="0" time="5.000">"#,
        r#"<testsuite name="run-&lt;1&gt;" timestamp="1970-01-01T00:00:00Z""#,
        r#"<testcase name="tests/test_a.py::test_a" classname="tests.test_a" time="1.250">"#,
        r#"<failure message="exit code &quot;1&quot;&#10;second" type="exit_code">a &lt; b ]]&gt; c</failure>"#,
        r#"<error message="timed out after 5 s" type="timeout"></error>"#,
        "<system-out>fine\n</system-out>",
    ] {
        assert!(xml.contains(part), "{part} is not in:\n{xml}");
    }
    if let Some(parsed) = parsed(&xml) {
        assert_eq!(
            parsed,
            [
                "4:1:2",
                "tests/test_a.py::test_a\x1ftests.test_a",
                "make 'b' && <c>\x1fcommand\x1ffailure=exit_code",
                "tests/test_a.py::TestX::test_c[a::b]\x1ftests.test_a.TestX\x1ferror=timeout",
                "d\x1fcommand\x1ferror=unknown",
            ]
        );
    }
}

#[test]
fn characters_that_xml_has_not_are_escaped_away() {
    let nasty: String =
        (0..0x20u8).map(char::from).chain("\u{7f}\u{fffe}\u{ffff}\u{1fffe}é😀".chars()).collect();
    let xml = written(1, &[(0, &nasty, verdict(Kind::Failed("exit_code"), &nasty, &nasty))]);
    assert!(xml.contains("#x1B") && xml.contains("#xFFFE") && xml.contains("#x1FFFE") && xml.contains("é😀"));
    if let Some(parsed) = parsed(&xml) {
        assert_eq!(parsed[0], "1:1:0");
        assert!(parsed[1].contains("\t\n") && parsed[1].contains('\r'), "white space survives in attributes");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4))]

    #[test]
    fn any_text_gives_a_well_formed_file(texts in proptest::collection::vec("\\PC{0,20}|[\\x00-\\x7f]{0,20}", 1..200)) {
        let cases: Vec<_> = texts.iter().enumerate()
            .map(|(n, t)| (n, t.as_str(), verdict(Kind::Failed("exit_code"), t, t))).collect();
        let xml = written(texts.len(), &cases);
        if let Some(parsed) = parsed(&xml) {
            proptest::prop_assert_eq!(parsed.len(), texts.len() + 1);
        }
    }
}

#[test]
fn long_output_is_cut() {
    let xml = written(1, &[(0, "a", verdict(Kind::Passed, "", &"x".repeat(10 * MAX_OUTPUT_BYTES)))]);
    assert!(xml.len() < 2 * MAX_OUTPUT_BYTES && xml.contains("bytes left out"));
}

#[test]
fn an_old_file_is_replaced_whole_and_a_bad_place_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.xml");
    std::fs::write(&path, "old").unwrap();
    let junit = Junit::create(&path, 0).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
    let run = Run { run_id: "r", started_at: jiff::Timestamp::UNIX_EPOCH, took: Duration::ZERO };
    junit.write(&run).unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("</testsuites>\n"));
    assert!(Junit::create(&folder.path().join("no/such/out.xml"), 1).is_err());
    assert!(Junit::create(folder.path(), 1).is_err());
}
