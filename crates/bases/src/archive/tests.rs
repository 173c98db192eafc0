//! Tests of reading an archive, against a small one served from this process and signed with a key made here.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use lamina_events::CancelToken;
use lamina_ground::{EnvVars, Hint};
use pgp::composed::{ArmorOptions, CleartextSignedMessage, KeyType, SecretKeyParamsBuilder, SignedSecretKey};
use pgp::types::Password;
use sha2::{Digest, Sha256};

use super::*;
use crate::openpgp::Keyring;

/// An archive: paths and what is there.
struct Fixture {
    key: SignedSecretKey,
    files: HashMap<String, Vec<u8>>,
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let mut builder = SecretKeyParamsBuilder::default();
        builder
            .key_type(KeyType::Ed25519Legacy)
            .can_certify(true)
            .can_sign(true)
            .primary_user_id("Test <test@example.org>".into());
        Self {
            key: builder.build().unwrap().generate(rand::thread_rng()).unwrap(),
            files: HashMap::new(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Adds a suite with one package in one version; `by_hash` is where its index can be had.
    fn add(mut self, archive: &str, suite: &str, version: &str, validity: &str, by_hash: bool) -> Self {
        let package = format!(
            "Package: demo\nVersion: {version}\nFilename: pool/demo.deb\nSize: 1\nSHA256: {}\n",
            "0".repeat(64)
        );
        let mut writer = liblzma::write::XzEncoder::new(Vec::new(), 1);
        writer.write_all(package.as_bytes()).unwrap();
        let index = writer.finish().unwrap();
        let digest = HEXLOWER.encode(&Sha256::digest(&index));
        let binary = format!("main/binary-{}", architecture().unwrap());
        let release = format!(
            "Codename: {suite}\nDate: Wed, 01 Jan 2025 00:00:00 UTC\nAcquire-By-Hash: yes\n{validity}SHA256:\n \
             {digest} {} {binary}/Packages.xz\n",
            index.len()
        );
        let message =
            CleartextSignedMessage::sign(rand::thread_rng(), &release, &self.key.primary_key, &Password::empty())
                .unwrap();
        let signed = message.to_armored_bytes(ArmorOptions::default()).unwrap();
        let name = if by_hash { format!("by-hash/SHA256/{digest}") } else { "Packages.xz".into() };
        self.files.insert(format!("/{archive}/dists/{suite}/InRelease"), signed);
        self.files.insert(format!("/{archive}/dists/{suite}/{binary}/{name}"), index);
        self
    }

    /// A whole suite: itself in version 1, its security updates in version 2.
    fn complete() -> Self {
        Self::new().add("debian", "bookworm", "1", "", true).add("debian-security", "bookworm-security", "2", "", false)
    }

    /// Serves the files until the process ends.
    fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let files = self.files.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                answer(stream, &files);
            }
        });
        format!("http://{address}")
    }

    fn read(&self) -> Result<Index, BaseError> {
        let keyring: PathBuf = self.directory.path().join("keyring.asc");
        let key = self.key.to_public_key().to_armored_bytes(ArmorOptions::default()).unwrap();
        fs_err::write(&keyring, key).unwrap();
        self.read_with(Keyring::File { path: keyring, origin: "the test".into(), debian: false })
    }

    fn read_with(&self, keyring: Keyring) -> Result<Index, BaseError> {
        let server = self.serve();
        let mirror = Mirror {
            archive: format!("{server}/debian"),
            security: Some(format!("{server}/debian-security")),
            keyring,
            ..Mirror::default()
        };
        let downloads = self.directory.path().join("downloads");
        read(Suite::Bookworm, &mirror, &Client::new(CancelToken::new()), &downloads)
    }
}

/// Answers one request; what is not there is a 404.
fn answer(mut stream: TcpStream, files: &HashMap<String, Vec<u8>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    lines.find(String::is_empty);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (status, body) = match files.get(path) {
        Some(body) => ("200 OK", &body[..]),
        None => ("404 Not Found", &b""[..]),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // A client that has gone away got what it wanted.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

#[test]
fn the_newest_version_of_all_parts_is_offered() {
    let index = Fixture::complete().read().unwrap();
    assert_eq!(index["demo"].version, "2");
    assert!(index["demo"].archive.ends_with("/debian-security"));
}

#[test]
fn a_missing_suite_is_named_with_what_to_set() {
    let advice = |fixture: Fixture, suite: &str| {
        let error = fixture.read().err().unwrap();
        assert!(error.to_string().contains(suite), "{error}");
        error.hint().unwrap().into_owned()
    };
    let hint = advice(Fixture::new(), "`bookworm`");
    assert!(hint.contains(EnvVars::MODAL_DEBIAN_MIRROR), "{hint}");
    let hint = advice(Fixture::new().add("debian", "bookworm", "1", "", true), "`bookworm-security`");
    assert!(hint.contains(EnvVars::MODAL_DEBIAN_SECURITY_MIRROR), "{hint}");
}

#[test]
fn foreign_keys_outdated_and_exchanged_files_are_refused() {
    let error = Fixture::complete().read_with(Keyring::BuiltIn).err().unwrap();
    assert!(error.hint().unwrap().contains(EnvVars::MODAL_DEBIAN_KEYRING), "{error}");

    let outdated = "Valid-Until: Wed, 08 Jan 2025 00:00:00 UTC\n";
    let error = Fixture::new().add("debian", "bookworm", "1", outdated, true).read().err().unwrap();
    assert!(matches!(error, BaseError::Outdated { .. }), "{error}");

    let mut exchanged = Fixture::complete().add("debian", "bullseye", "9", "", true);
    let other = exchanged.files["/debian/dists/bullseye/InRelease"].clone();
    exchanged.files.insert("/debian/dists/bookworm/InRelease".into(), other);
    let error = exchanged.read().err().unwrap();
    assert!(error.to_string().contains("`bullseye`"), "{error}");
}

#[test]
fn an_altered_index_is_refused() {
    let mut fixture = Fixture::complete();
    for (_, file) in fixture.files.iter_mut().filter(|(path, _)| path.contains("by-hash")) {
        let last = file.len() - 1;
        file[last] ^= 1;
    }
    let error = fixture.read().err().unwrap();
    assert!(matches!(error, BaseError::Fetch(FetchError::Digest { .. })), "{error}");
}
