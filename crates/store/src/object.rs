//! Names of objects, and what a file has besides its bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use lamina_image::Digest;
use serde::{Deserialize, Serialize};

/// A point in time as file systems keep it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970; negative before.
    pub seconds: i64,
    /// Nanoseconds after that, below 10⁹.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// 2000-01-01 00:00:00 UTC: when everything was last changed that package managers install, and whatever else has
    /// no time of its own. One constant time keeps the results of package steps equal.
    pub const PACKAGE: Self = Self { seconds: 946_684_800, nanoseconds: 0 };
}

/// What a file has besides its bytes and its names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Metadata {
    /// Permission bits, set-id and sticky bits included.
    pub mode: u32,
    /// Owner as seen inside.
    pub uid: u32,
    /// Group as seen inside.
    pub gid: u32,
    /// When the contents were last changed.
    pub modified: Timestamp,
    /// Extended attributes as seen inside, by name.
    #[serde(default, with = "pairs", skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Metadata {
    /// Of a file of container root without extended attributes and with the time of packages.
    #[must_use]
    pub fn root_owned(mode: u32) -> Self {
        Self { mode, modified: Timestamp::PACKAGE, ..Self::default() }
    }
}

/// Name of an object: the first 132 bits of the digest of its bytes as 22 characters of base64 (RFC 4648, section 5).
///
/// It is so short because views name objects in an attribute that has to fit into an inode. The whole digest is kept
/// beside the object and compared, so that nothing depends on 132 bits being enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName([u8; Self::LENGTH]);

impl ObjectName {
    const LENGTH: usize = 22;
    /// The digits, in the order of their values. The first one of a name is its directory.
    pub(crate) const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    /// The name of these bytes.
    #[must_use]
    pub fn new(content: &Digest) -> Self {
        let bytes = content.as_bytes();
        let mut name = [0; Self::LENGTH];
        for (index, digit) in name.iter_mut().enumerate() {
            // Six bits from the bit 6 × index on, which are in two bytes at most.
            let (byte, shift) = (index * 6 / 8, index * 6 % 8);
            let window = u16::from(bytes[byte]) << 8 | u16::from(bytes[byte + 1]);
            *digit = Self::DIGITS[usize::from(window >> (10 - shift) & 63)];
        }
        Self(name)
    }

    /// The name that a file has in the directory of a digit.
    pub(crate) fn parse(digit: u8, rest: &[u8]) -> Option<Self> {
        let name: [u8; Self::LENGTH] = [&[digit], rest].concat().try_into().ok()?;
        name.iter().all(|digit| Self::DIGITS.contains(digit)).then_some(Self(name))
    }

    /// Path relative to the directory of objects.
    #[must_use]
    pub fn relative(&self) -> String {
        let (directory, name) = self.0.split_at(1);
        format!("{}/{}", String::from_utf8_lossy(directory), String::from_utf8_lossy(name))
    }

    /// Path relative to the content directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("objects/{}", self.relative()))
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// Attributes as a list of pairs: names are bytes, which JSON has no keys for.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

    pub(super) fn serialize<S: Serializer>(attributes: &Attributes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(attributes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Attributes, D::Error> {
        Ok(Vec::<(Vec<u8>, Vec<u8>)>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_first_bits_in_base64() {
        let digest = Digest::from_bytes(std::array::from_fn(|index| u8::try_from(index * 37 % 256).unwrap_or(0)));
        // Compared with Python: base64.urlsafe_b64encode(bytes(i * 37 % 256 for i in range(32)))[:22].
        assert_eq!(ObjectName::new(&digest).to_string(), "ACVKb5S53gMoTXKXvOEGK1");
        assert_eq!(ObjectName::new(&digest).path(), PathBuf::from("objects/A/CVKb5S53gMoTXKXvOEGK1"));
        assert_eq!(ObjectName::parse(b'A', b"CVKb5S53gMoTXKXvOEGK1"), Some(ObjectName::new(&digest)));
        assert_eq!(ObjectName::parse(b'A', b"CVKb5S53gMoTXKXvOEGK"), None);
        assert_eq!(ObjectName::parse(b'A', b"CVKb5S53gMoTXKXvOEGK."), None);
    }
}
