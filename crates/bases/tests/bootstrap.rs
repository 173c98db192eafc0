//! A real bootstrap, from the mirror that this machine would use.
//!
//! The processes inside the store's user namespace execute the program that starts them, which a test harness is not fit
//! for; so this runs the example, which is built with the tests.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails with it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a base has to be able to do.
const CHECKS: &str = r#"set -ex
test -z "$(dpkg --audit)"
test -z "$(find / -xdev -name '*.dpkg-new')"
python -c 'import ssl, sqlite3, ctypes, lzma; print("imports work")'
pip --version
python3 -m venv --without-pip /tmp/environment
test "$(cat /etc/machine-id /etc/hostname)" = ""
test ! -e /usr/local/sbin/dpkg && test ! -e /usr/sbin/policy-rc.d
test "$(stat -c %a /tmp)" = 1777
test -s /etc/ssl/certs/ca-certificates.crt
test ! -e /usr/lib/python3.11/EXTERNALLY-MANAGED
getent passwd nobody
! command -v gcc"#;

fn example(arguments: &[&str]) -> Output {
    let tests = std::env::current_exe().unwrap();
    let program: PathBuf = tests.parent().and_then(Path::parent).unwrap().join("examples/bootstrap");
    Command::new(program).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn bookworm_twice_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    let store = store.to_str().unwrap();
    let first = example(&[store, "3.11", CHECKS]);
    let said = text(&first.stdout) + &text(&first.stderr);
    assert!(first.status.success(), "{said}");
    assert!(
        said.contains("release: \"bookworm\"") && said.contains("/usr/local/lib/python3.11/dist-packages"),
        "{said}"
    );
    assert!(said.contains("imports work"), "{said}");

    let second = example(&[store, "3.11"]);
    let digest = |output: &Output| {
        let text = text(&output.stdout);
        text.split("digest: ").nth(1).map(|rest| rest[..80].to_owned())
    };
    assert!(second.status.success(), "{}", text(&second.stderr));
    assert_eq!(digest(&first), digest(&second));
    assert!(example(&[store, "remove"]).status.success());
}
