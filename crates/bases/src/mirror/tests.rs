//! Tests of finding the mirror.

use super::sources::{SignedBy, deb822, one_line};
use super::*;

fn host(files: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<Mirror, BaseError> {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = root.path().join("etc/apt").join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }
    let environment =
        |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
    find_with(&environment, root.path())
}

#[test]
fn without_anything_the_default_is_used() {
    assert_eq!(host(&[], &[]).unwrap(), Mirror::default());
    let ubuntu = "deb http://archive.example.org/ubuntu noble main universe\n";
    assert_eq!(host(&[("sources.list", ubuntu)], &[]).unwrap(), Mirror::default());
}

#[test]
fn deb822_sources_of_the_host_are_used_and_third_parties_ignored() {
    let debian = "Types: deb deb-src\nURIs: http://mirror.example.org/debian/\nSuites: bookworm bookworm-updates\n\
                  Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
                  Types: deb\nURIs: http://mirror.example.org/debian-security\nSuites: bookworm-security\n\
                  Components: main\nCheck-Valid-Until: no\n";
    let others = "deb [signed-by=/usr/share/keyrings/tool.gpg] https://apt.example.com stable main\n\
                  deb [arch=s390x] http://mainframe.example.org/debian bookworm main\n";
    let mirror = host(
        &[
            ("sources.list.d/a-tool.list", others),
            ("sources.list.d/debian.sources", debian),
            (
                "sources.list.d/debian.sources.save",
                "Types: deb\nURIs: http://old/debian\nSuites: sid\nComponents: main\n",
            ),
        ],
        &[],
    )
    .unwrap();
    assert_eq!(mirror.archive, "http://mirror.example.org/debian");
    assert_eq!(mirror.security.as_deref(), Some("http://mirror.example.org/debian-security"));
    assert!(mirror.check_valid_until);
    assert!(matches!(&mirror.keyring, Keyring::File { path, debian: true, .. }
        if path == Path::new("/usr/share/keyrings/debian-archive-keyring.gpg")));
}

#[test]
fn one_line_sources_of_the_host_are_used() {
    let text = "# deb http://commented/debian bookworm main\n\
                deb cdrom:[Debian 12]/ bookworm main\n\
                deb [ arch=amd64,arm64 check-valid-until=no ] https://mirror.example.org/debian bookworm main contrib # note\n\
                deb http://security.example.org/debian-security bullseye/updates main\n\
                deb-src http://sources.example.org/debian bookworm main\n";
    let mirror = host(&[("sources.list", text)], &[]).unwrap();
    assert_eq!(mirror.archive, "https://mirror.example.org/debian");
    assert_eq!(mirror.security.as_deref(), Some("http://security.example.org/debian-security"));
    assert!(!mirror.check_valid_until);
    assert_eq!(mirror.keyring, Keyring::BuiltIn);
}

#[test]
fn settings_win() {
    let text = "deb http://mirror.example.org/debian bookworm main\n";
    let mirror = host(
        &[("sources.list", text)],
        &[
            (EnvVars::MODAL_DEBIAN_MIRROR, "http://other.example.org/debian/"),
            (EnvVars::MODAL_DEBIAN_KEYRING, "/keys.gpg"),
            (EnvVars::MODAL_DEBIAN_CHECK_VALID_UNTIL, "no"),
        ],
    )
    .unwrap();
    assert_eq!(mirror.archive, "http://other.example.org/debian");
    assert_eq!(mirror.security.as_deref(), Some("http://other.example.org/debian-security"));
    assert!(matches!(&mirror.keyring, Keyring::File { debian: false, .. }));
    assert!(!mirror.check_valid_until);
    assert_eq!(host(&[], &[(EnvVars::MODAL_DEBIAN_SECURITY_MIRROR, "none")]).unwrap().security, None);
    for (value, checks) in [("Yes", true), ("1", true), ("off", false), ("0", false)] {
        let mirror = host(&[], &[(EnvVars::MODAL_DEBIAN_CHECK_VALID_UNTIL, value)]).unwrap();
        assert_eq!(mirror.check_valid_until, checks, "{value}");
    }
    let unclear = host(&[], &[(EnvVars::MODAL_DEBIAN_CHECK_VALID_UNTIL, "yess")]).unwrap_err().to_string();
    assert!(unclear.contains("`yess`") && unclear.contains("`yes` or `no`"), "{unclear}");
    for value in ["ftp.debian.org/debian", "file:///srv", "http://", "http:///debian", "http://a http://b"] {
        let message = host(&[], &[(EnvVars::MODAL_DEBIAN_MIRROR, value)]).unwrap_err().to_string();
        assert!(message.contains(&format!("`{value}`")) && message.contains(EnvVars::MODAL_DEBIAN_MIRROR), "{message}");
    }
}

#[test]
fn keys_written_into_the_sources_are_taken_whole() {
    let text = "Types: deb\nURIs: http://a/debian\nSuites: sid\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----\n";
    let entries = deb822(text, "x");
    let Some(SignedBy::Inline(key)) = &entries[0].signed_by else { panic!("no key") };
    assert_eq!(key, "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----\n");
}

#[test]
fn strange_lines_are_skipped() {
    for line in ["deb", "deb [", "deb [a] ", "debx http://a b main", "deb http://a", "deb http://a bookworm"] {
        let entries = one_line(line, "x");
        assert!(entries.iter().all(|entry| entry.strangeness().is_none()), "{line}");
    }
}

#[test]
fn sources_inside_an_image_name_the_default() {
    insta::assert_snapshot!(Mirror::default().sources_list(Suite::Bookworm, IMAGE_KEYRING), @r"
    Types: deb
    URIs: http://ftp.debian.org/debian
    Suites: bookworm bookworm-updates
    Components: main
    Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

    Types: deb
    URIs: http://ftp.debian.org/debian-security
    Suites: bookworm-security
    Components: main
    Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
    ");
}

#[test]
fn the_hosts_apt_may_not_mind_outdated_release_files() {
    let setting = |text: &str| host(&[("apt.conf.d/99mirror", text)], &[]).unwrap().check_valid_until;
    assert!(!setting("Acquire::Check-Valid-Until \"false\";\n"));
    assert!(!setting("Acquire::Check-Valid-Until true;\n  Acquire::Check-Valid-Until no;\n"));
    assert!(setting("// Acquire::Check-Valid-Until \"false\";\n"));
    assert!(setting("Acquire::Retries \"3\";\n"));
}
