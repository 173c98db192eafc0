//! Is a release file signed by a key that may sign it, today?

use std::path::PathBuf;

use lamina_ground::causes;
use pgp::armor::BlockType;
use pgp::composed::{CleartextSignedMessage, Deserializable, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::ser::Serialize;
use pgp::types::{KeyDetails, Tag, VerifyingKey};

use crate::{BaseError, SignatureProblem, date};

/// Debian's archive keys, see `keys/README.md`.
const BUILT_IN: [&[u8]; 9] = [
    include_bytes!("../keys/debian-archive-bullseye-automatic.gpg"),
    include_bytes!("../keys/debian-archive-bullseye-security-automatic.gpg"),
    include_bytes!("../keys/debian-archive-bullseye-stable.gpg"),
    include_bytes!("../keys/debian-archive-bookworm-automatic.gpg"),
    include_bytes!("../keys/debian-archive-bookworm-security-automatic.gpg"),
    include_bytes!("../keys/debian-archive-bookworm-stable.gpg"),
    include_bytes!("../keys/debian-archive-trixie-automatic.gpg"),
    include_bytes!("../keys/debian-archive-trixie-security-automatic.gpg"),
    include_bytes!("../keys/debian-archive-trixie-stable.gpg"),
];

/// Clocks of mirrors and machines differ a little.
const CLOCK_TOLERANCE: u64 = 60 * 60;

/// Which keys may sign the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keyring {
    /// Those compiled into the program.
    BuiltIn,
    /// Those of a file.
    File {
        /// The file.
        path: PathBuf,
        /// Which setting names it.
        origin: String,
        /// Whether it is Debian's own, possibly older than the compiled-in keys, which then count too.
        debian: bool,
    },
    /// Those written into the host's sources.
    Inline {
        /// ASCII-armoured keys.
        armored: String,
        /// The sources file.
        origin: String,
    },
}

/// The keys that may sign an archive.
#[derive(Debug)]
pub(crate) struct Keys {
    certificates: Vec<SignedPublicKey>,
    /// Where they come from, for messages.
    origin: String,
}

impl Keys {
    /// Reads a keyring.
    pub(crate) fn load(keyring: &Keyring) -> Result<Self, BaseError> {
        match keyring {
            Keyring::BuiltIn => built_in(),
            Keyring::Inline { armored, origin } => {
                let path = std::path::Path::new("(inline)");
                let certificates =
                    parse(armored.as_bytes()).map_err(|reason| BaseError::keyring(path, origin, &reason))?;
                Ok(Self { certificates, origin: origin.clone() })
            }
            Keyring::File { path, origin, debian } => {
                let read = fs_err::read(path).map_err(|error| causes(&error));
                let read = read.and_then(|bytes| parse(&bytes));
                let origin_of_keys = format!("`{}`", path.display());
                let mut keys = match read {
                    Ok(certificates) => Self { certificates, origin: origin_of_keys },
                    // Debian's own keys are there all the same.
                    Err(_) if *debian => return built_in(),
                    Err(reason) => return Err(BaseError::keyring(path, origin, &reason)),
                };
                if *debian {
                    // The host's keyring may be older than the suite; where both have a key, the host's comes first.
                    keys.certificates.extend(built_in()?.certificates);
                }
                Ok(keys)
            }
        }
    }
}

fn built_in() -> Result<Keys, BaseError> {
    let mut certificates = Vec::new();
    for bytes in BUILT_IN {
        certificates.extend(parse(bytes).map_err(|reason| BaseError::malformed("built-in keyring", &reason))?);
    }
    Ok(Keys { certificates, origin: "of Debian's archive keys that this program has built in".into() })
}

/// A keyring in ASCII armour, whichever form it has.
pub(crate) fn armored(keyring: Vec<u8>) -> pgp::errors::Result<Vec<u8>> {
    if keyring.starts_with(b"-----") {
        return Ok(keyring);
    }
    let mut text = Vec::new();
    pgp::armor::write(&Packets(keyring), BlockType::PublicKey, &mut text, None, true)?;
    Ok(text)
}

/// Packets as they are.
struct Packets(Vec<u8>);

impl Serialize for Packets {
    fn to_writer<W: std::io::Write>(&self, writer: &mut W) -> pgp::errors::Result<()> {
        Ok(writer.write_all(&self.0)?)
    }

    fn write_len(&self) -> usize {
        self.0.len()
    }
}

/// Reads binary or armoured keys. Keys that cannot be read are left out, as gpg does; at least one must remain.
fn parse(bytes: &[u8]) -> Result<Vec<SignedPublicKey>, String> {
    let certificates: Vec<_> = if bytes.starts_with(b"-----") {
        SignedPublicKey::from_armor_many(bytes).map_err(|error| error.to_string())?.0.filter_map(Result::ok).collect()
    } else {
        SignedPublicKey::from_bytes_many(bytes).map_err(|error| error.to_string())?.filter_map(Result::ok).collect()
    };
    if certificates.is_empty() {
        return Err("it holds no OpenPGP public key".into());
    }
    Ok(certificates)
}

/// The text of a clear-signed message, if one of its signatures is by one of the keys and valid at `now`.
pub(crate) fn verify(message: &str, keys: &Keys, now: u64) -> Result<String, SignatureProblem> {
    let (message, _) =
        CleartextSignedMessage::from_string(message).map_err(|error| SignatureProblem::Missing(error.to_string()))?;
    let text = message.signed_text();
    let mut problem = None;
    for signature in message.signatures() {
        match verify_one(signature, text.as_bytes(), keys, now) {
            Some(Ok(())) => return Ok(text),
            Some(Err(found)) => {
                problem.get_or_insert(found);
            }
            None => {}
        }
    }
    Err(problem.unwrap_or_else(|| unknown(message.signatures(), keys)))
}

fn unknown(signatures: &[Signature], keys: &Keys) -> SignatureProblem {
    let mut signers: Vec<_> = signatures
        .iter()
        .map(|signature| match signature.issuer_fingerprint().first() {
            Some(fingerprint) => format!("{fingerprint:X}"),
            None => signature.issuer_key_id().iter().map(ToString::to_string).collect(),
        })
        .filter(|signer| !signer.is_empty())
        .collect();
    signers.dedup();
    if signers.is_empty() {
        return SignatureProblem::Missing("the signature block is empty".into());
    }
    SignatureProblem::UnknownKey { signers: signers.join(", "), keyring: keys.origin.clone() }
}

/// Whether a signature is valid; `None` if none of the keys made it.
fn verify_one(signature: &Signature, text: &[u8], keys: &Keys, now: u64) -> Option<Result<(), SignatureProblem>> {
    for certificate in &keys.certificates {
        if is_by(signature, &certificate.primary_key) {
            let outcome = check(signature, text, &certificate.primary_key, now);
            return Some(outcome.and_then(|()| check_primary(certificate, true, now)));
        }
        for subkey in &certificate.public_subkeys {
            if is_by(signature, &subkey.key) {
                let outcome = check(signature, text, &subkey.key, now)
                    .and_then(|()| check_primary(certificate, false, now))
                    .and_then(|()| check_subkey(certificate, subkey, now));
                return Some(outcome);
            }
        }
    }
    None
}

/// Whether the signature names this key as its issuer.
fn is_by(signature: &Signature, key: &impl KeyDetails) -> bool {
    let fingerprints = signature.issuer_fingerprint();
    if fingerprints.is_empty() {
        return signature.issuer_key_id().into_iter().any(|id| *id == key.legacy_key_id());
    }
    fingerprints.into_iter().any(|fingerprint| *fingerprint == key.fingerprint())
}

fn name(key: &impl KeyDetails) -> String {
    format!("{:X}", key.fingerprint())
}

/// The signature itself: its mathematics, its kind, its times.
fn check(signature: &Signature, text: &[u8], key: &impl VerifyingKey, now: u64) -> Result<(), SignatureProblem> {
    let strong =
        matches!(signature.hash_alg(), Some(HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512));
    let right_kind = matches!(signature.typ(), Some(SignatureType::Text | SignatureType::Binary));
    if !strong || !right_kind || signature.verify(key, text).is_err() {
        return Err(SignatureProblem::Altered { key: name(key) });
    }
    let Some(created) = signature.created().map(|created| u64::from(created.as_secs())) else {
        return Err(SignatureProblem::Altered { key: name(key) });
    };
    if created > now + CLOCK_TOLERANCE {
        return Err(SignatureProblem::Future { date: date::show(created) });
    }
    match signature.signature_expiration_time().map(pgp::types::Duration::as_secs) {
        Some(seconds) if seconds > 0 && created + u64::from(seconds) < now => {
            Err(SignatureProblem::Lapsed { date: date::show(created + u64::from(seconds)) })
        }
        _ => Ok(()),
    }
}

/// The certificate: not revoked, not expired, and, if it signed itself, meant for signing.
fn check_primary(certificate: &SignedPublicKey, signs: bool, now: u64) -> Result<(), SignatureProblem> {
    let key = &certificate.primary_key;
    let details = &certificate.details;
    if details.revocation_signatures.iter().any(|signature| signature.verify_key(key).is_ok()) {
        return Err(SignatureProblem::Revoked { key: name(key) });
    }
    let direct = details.direct_signatures.iter().filter(|signature| signature.verify_key(key).is_ok());
    let of_users = details.users.iter().flat_map(|user| {
        user.signatures.iter().filter(|signature| {
            signature.is_certification()
                && is_by(signature, key)
                && signature.verify_certification(key, Tag::UserId, &user.id).is_ok()
        })
    });
    let latest =
        newest(direct.chain(of_users), now).ok_or_else(|| SignatureProblem::NotForSigning { key: name(key) })?;
    check_expiry(key, latest, now)?;
    if signs && !latest.key_flags().sign() {
        return Err(SignatureProblem::NotForSigning { key: name(key) });
    }
    Ok(())
}

/// The subkey: bound by the certificate and by itself, not revoked, not expired, meant for signing.
fn check_subkey(certificate: &SignedPublicKey, subkey: &SignedPublicSubKey, now: u64) -> Result<(), SignatureProblem> {
    let key = &subkey.key;
    let valid = |signature: &&Signature| signature.verify_subkey_binding(&certificate.primary_key, key).is_ok();
    let of_type =
        |wanted| subkey.signatures.iter().filter(move |signature| signature.typ() == Some(wanted)).filter(valid);
    if of_type(SignatureType::SubkeyRevocation).next().is_some() {
        return Err(SignatureProblem::Revoked { key: name(key) });
    }
    let not_for_signing = || SignatureProblem::NotForSigning { key: name(key) };
    let latest = newest(of_type(SignatureType::SubkeyBinding), now).ok_or_else(not_for_signing)?;
    check_expiry(key, latest, now)?;
    let agrees = latest
        .embedded_signature()
        .is_some_and(|back| back.verify_primary_key_binding(key, &certificate.primary_key).is_ok());
    if latest.key_flags().sign() && agrees { Ok(()) } else { Err(not_for_signing()) }
}

/// The self-signature that counts: the newest that exists already.
fn newest<'a>(signatures: impl Iterator<Item = &'a Signature>, now: u64) -> Option<&'a Signature> {
    signatures
        .filter_map(|signature| Some((signature.created()?.as_secs(), signature)))
        .filter(|(created, _)| u64::from(*created) <= now + CLOCK_TOLERANCE)
        .max_by_key(|(created, _)| *created)
        .map(|(_, signature)| signature)
}

fn check_expiry(key: &impl KeyDetails, self_signature: &Signature, now: u64) -> Result<(), SignatureProblem> {
    let lifetime = self_signature.key_expiration_time().map_or(0, pgp::types::Duration::as_secs);
    let expiry = u64::from(key.created_at().as_secs()) + u64::from(lifetime);
    if lifetime > 0 && expiry < now {
        return Err(SignatureProblem::Expired { key: name(key), date: date::show(expiry) });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
