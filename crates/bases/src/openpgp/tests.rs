//! Tests of signatures, with keys made here.

use lamina_ground::{EnvVars, seconds_since_1970};
use pgp::composed::{KeyType, SecretKeyParamsBuilder, SignedSecretKey, SubkeyParamsBuilder};
use pgp::packet::{RevocationCode, SignatureConfig, Subpacket, SubpacketData};
use pgp::types::{Password, Timestamp};
use rand::thread_rng;

use super::*;

const DAY: u64 = 24 * 60 * 60;
const TEXT: &str = "Origin: Test\nDate: Sat, 21 Nov 2026 09:15:44 UTC\n- a line with a dash\n";

/// A certificate whose primary key certifies and whose subkey signs, unless told otherwise.
fn make_key(primary_signs: bool, subkey_signs: bool) -> SignedSecretKey {
    let mut builder = SecretKeyParamsBuilder::default();
    builder
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(primary_signs)
        .primary_user_id("Test <test@example.org>".into())
        .subkeys(vec![
            SubkeyParamsBuilder::default()
                .key_type(KeyType::Ed25519Legacy)
                .can_sign(subkey_signs)
                .can_authenticate(!subkey_signs)
                .build()
                .unwrap(),
        ]);
    builder.build().unwrap().generate(thread_rng()).unwrap()
}

fn keys(certificate: SignedPublicKey) -> Keys {
    Keys { certificates: vec![certificate], origin: "of the test".into() }
}

fn sign_with_subkey(key: &SignedSecretKey) -> String {
    as_text(&CleartextSignedMessage::sign(thread_rng(), TEXT, &key.secret_subkeys[0].key, &Password::empty()).unwrap())
}

fn sign_with_primary(key: &SignedSecretKey) -> String {
    as_text(&CleartextSignedMessage::sign(thread_rng(), TEXT, &key.primary_key, &Password::empty()).unwrap())
}

fn as_text(message: &CleartextSignedMessage) -> String {
    message.to_armored_string(pgp::composed::ArmorOptions::default()).unwrap()
}

/// Replaces the self-signature by one that limits the key's life.
fn expire(key: &SignedSecretKey, lifetime: u64) -> SignedPublicKey {
    let mut certificate = key.to_public_key();
    let mut config = SignatureConfig::from_key(thread_rng(), &key.primary_key, SignatureType::CertPositive).unwrap();
    config.hashed_subpackets = vec![
        Subpacket::regular(SubpacketData::SignatureCreationTime(Timestamp::now())).unwrap(),
        Subpacket::regular(SubpacketData::IssuerFingerprint(key.primary_key.fingerprint())).unwrap(),
        Subpacket::regular(SubpacketData::KeyExpirationTime(pgp::types::Duration::from_secs(
            u32::try_from(lifetime).unwrap(),
        )))
        .unwrap(),
    ];
    let user = &mut certificate.details.users[0];
    let signature = config
        .sign_certification(&key.primary_key, &certificate.primary_key, &Password::empty(), Tag::UserId, &user.id)
        .unwrap();
    user.signatures = vec![signature];
    certificate
}

#[test]
fn a_signing_subkey_and_a_signing_primary_key_are_accepted() {
    let key = make_key(false, true);
    let text = verify(&sign_with_subkey(&key), &keys(key.to_public_key()), seconds_since_1970()).unwrap();
    assert_eq!(text.replace("\r\n", "\n"), TEXT);
    let key = make_key(true, true);
    verify(&sign_with_primary(&key), &keys(key.to_public_key()), seconds_since_1970()).unwrap();
}

#[test]
fn keys_not_meant_for_signing_are_refused() {
    let key = make_key(false, true);
    let problem = verify(&sign_with_primary(&key), &keys(key.to_public_key()), seconds_since_1970()).unwrap_err();
    assert!(matches!(problem, SignatureProblem::NotForSigning { .. }), "{problem}");
    let key = make_key(true, false);
    let problem = verify(&sign_with_subkey(&key), &keys(key.to_public_key()), seconds_since_1970()).unwrap_err();
    assert!(matches!(problem, SignatureProblem::NotForSigning { .. }), "{problem}");
}

#[test]
fn altered_text_and_foreign_keys_are_refused() {
    let key = make_key(false, true);
    let message = sign_with_subkey(&key);
    let problem =
        verify(&message.replace("Test", "Best"), &keys(key.to_public_key()), seconds_since_1970()).unwrap_err();
    assert!(matches!(problem, SignatureProblem::Altered { .. }), "{problem}");
    let other = make_key(false, true);
    let problem = verify(&message, &keys(other.to_public_key()), seconds_since_1970()).unwrap_err();
    assert!(matches!(problem, SignatureProblem::UnknownKey { .. }), "{problem}");
    let problem = verify(TEXT, &keys(other.to_public_key()), seconds_since_1970()).unwrap_err();
    assert!(matches!(problem, SignatureProblem::Missing(_)), "{problem}");
    // Text before or after the signed part is not signed.
    assert!(verify(&format!("{message}\nExtra: 1\n"), &keys(key.to_public_key()), seconds_since_1970()).is_err());
    assert!(verify(&format!("Extra: 1\n\n{message}"), &keys(key.to_public_key()), seconds_since_1970()).is_err());
}

#[test]
fn expired_keys_and_wrong_clocks_have_their_own_messages() {
    let key = make_key(false, true);
    let message = sign_with_subkey(&key);
    let certificate = expire(&key, 10 * DAY);
    verify(&message, &keys(certificate.clone()), seconds_since_1970()).unwrap();
    let problem = verify(&message, &keys(certificate.clone()), seconds_since_1970() + 11 * DAY).unwrap_err();
    assert!(problem.to_string().contains("expired on"), "{problem}");
    let problem = verify(&message, &keys(certificate), seconds_since_1970() - 2 * DAY).unwrap_err();
    assert!(problem.to_string().contains("clock"), "{problem}");
}

#[test]
fn revoked_keys_are_refused() {
    let key = make_key(false, true);
    let message = sign_with_subkey(&key);
    let mut certificate = key.to_public_key();
    let mut config = SignatureConfig::from_key(thread_rng(), &key.primary_key, SignatureType::KeyRevocation).unwrap();
    config.hashed_subpackets = vec![
        Subpacket::regular(SubpacketData::SignatureCreationTime(Timestamp::now())).unwrap(),
        Subpacket::regular(SubpacketData::IssuerFingerprint(key.primary_key.fingerprint())).unwrap(),
        Subpacket::regular(SubpacketData::RevocationReason(RevocationCode::KeyCompromised, "x".into())).unwrap(),
    ];
    let revocation = config.sign_key(&key.primary_key, &Password::empty(), &certificate.primary_key).unwrap();
    certificate.details.revocation_signatures.push(revocation);
    let problem = verify(&message, &keys(certificate), seconds_since_1970()).unwrap_err();
    assert!(matches!(problem, SignatureProblem::Revoked { .. }), "{problem}");
}

#[test]
fn a_subkey_that_was_merely_claimed_is_refused() {
    let (key, thief) = (make_key(false, true), make_key(false, true));
    // The thief shows somebody else's subkey as its own: that subkey never agreed to it.
    let mut certificate = thief.to_public_key();
    certificate.public_subkeys = key.to_public_key().public_subkeys;
    let problem = verify(&sign_with_subkey(&key), &keys(certificate), seconds_since_1970()).unwrap_err();
    assert!(matches!(problem, SignatureProblem::NotForSigning { .. }), "{problem}");
}

#[test]
fn the_built_in_keys_can_be_read_and_are_within_their_time() {
    let keys = built_in().unwrap();
    assert_eq!(keys.certificates.len(), BUILT_IN.len());
    for certificate in &keys.certificates {
        // The day before the first of these keys expires.
        check_primary(certificate, false, date::parse("Fri, 01 Jan 2027 00:00:00 UTC").unwrap()).unwrap();
    }
}

#[test]
fn keyrings_without_keys_are_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(file.path(), "nonsense").unwrap();
    for path in [file.path(), std::path::Path::new("/nonexistent/ring.gpg")] {
        let keyring = Keyring::File { path: path.into(), origin: EnvVars::MODAL_DEBIAN_KEYRING.into(), debian: false };
        let message = Keys::load(&keyring).unwrap_err().to_string();
        assert!(
            message.contains(EnvVars::MODAL_DEBIAN_KEYRING) && message.contains(&*path.to_string_lossy()),
            "{message}"
        );
    }
}

#[test]
fn keyrings_are_the_same_in_armour() {
    let both = [BUILT_IN[0], BUILT_IN[1]].concat();
    let text = armored(both.clone()).unwrap();
    assert!(text.starts_with(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n"));
    assert_eq!(parse(&text).unwrap(), parse(&both).unwrap());
    assert_eq!(armored(text.clone()).unwrap(), text);
}
