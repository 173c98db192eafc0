//! Channels: where the packages of a name are.

use std::path::PathBuf;

use rattler_conda_types::{Channel as Parsed, ChannelConfig};
use url::Url;

use crate::{CondaError, Settings};

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Channel {
    /// What it is called.
    pub(crate) name: String,
    /// Its address as records and lists have it: the public one, without credentials, whatever mirror is used.
    pub(crate) address: Url,
    /// Where it is read from: its mirrors, in the order in which they are asked, or one place.
    pub(crate) locations: Vec<Url>,
}

/// The parts of the channel that conda calls `defaults`.
pub(crate) const DEFAULTS: [&str; 2] = ["main", "r"];
/// The name that takes the host's defaults away, in environment files: there are none here.
const NO_DEFAULTS: &str = "nodefaults";

impl Settings {
    /// The channels that a text stands for: a name, an address or a path.
    pub(crate) fn channels(&self, text: &str) -> Result<Vec<Channel>, CondaError> {
        match text.trim() {
            NO_DEFAULTS => Ok(Vec::new()),
            "defaults" => DEFAULTS.iter().map(|name| self.channel(name)).collect(),
            text => Ok(vec![self.channel(text)?]),
        }
    }

    fn channel(&self, text: &str) -> Result<Channel, CondaError> {
        let unknown = |reason: String| CondaError::Channel { channel: text.to_owned(), reason };
        if text.is_empty() {
            return Err(unknown("it is empty".to_owned()));
        }
        let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let config = ChannelConfig::default_with_root_dir(directory);
        let parsed = Parsed::from_str(text, &config).map_err(|error| unknown(error.to_string()))?;
        let mut address: Url = parsed.base_url.url().clone().into();
        if !matches!(address.scheme(), "http" | "https" | "file") {
            return Err(unknown(format!("`{}` is no scheme that channels have here", address.scheme())));
        }
        let name = config.strip_channel_alias(&address).unwrap_or_else(|| text.to_owned());
        let locations = self.locations(&name, &address, &config.channel_alias);
        // Only `file` addresses have none to take off.
        let _ = address.set_username("").and_then(|()| address.set_password(None));
        Ok(Channel { name: lamina_image::redact(&name).into_owned(), address, locations })
    }

    /// Where the channel of this name and public address is read from.
    fn locations(&self, name: &str, address: &Url, public: &Url) -> Vec<Url> {
        if let Some(mirrors) = self.mirrors.get(name) {
            return mirrors.clone();
        }
        let first = name.split('/').next().unwrap_or_default();
        let base = self.custom.get(first).or(self.alias.as_ref());
        let below = address.as_str().strip_prefix(public.as_str());
        let below = base.zip(below).and_then(|(base, below)| base.join(below.trim_start_matches('/')).ok());
        vec![below.unwrap_or_else(|| address.clone())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn names_lead_below_the_alias_and_addresses_to_themselves() {
        let settings = Settings {
            alias: Some(url("https://mirror.invalid/conda/")),
            custom: [("lab".to_owned(), url("file:///srv/"))].into(),
            mirrors: [("bioconda".to_owned(), vec![url("http://near.invalid/bio/")])].into(),
        };
        let location = |text: &str| settings.channels(text).unwrap().pop().unwrap().locations[0].to_string();
        assert_eq!(location("conda-forge"), "https://mirror.invalid/conda/conda-forge/");
        assert_eq!(location("conda-forge/label/dev"), "https://mirror.invalid/conda/conda-forge/label/dev/");
        assert_eq!(location("lab/inner"), "file:///srv/lab/inner/");
        assert_eq!(location("bioconda"), "http://near.invalid/bio/");
        assert_eq!(location("https://other.invalid/channel"), "https://other.invalid/channel/");
        assert_eq!(location("/srv/channel"), "file:///srv/channel/");
        assert_eq!(settings.channels("defaults").unwrap().len(), 2);
        assert_eq!(settings.channels("nodefaults").unwrap(), []);
        let forge = &settings.channels("conda-forge").unwrap()[0];
        assert_eq!((forge.name.as_str(), forge.address.as_str().contains("mirror")), ("conda-forge", false));
        let secret = &settings.channels("https://me:hunter2@other.invalid/c").unwrap()[0];
        assert!(!format!("{} {}", secret.name, secret.address).contains("hunter2"));
        assert!(secret.locations[0].as_str().contains("hunter2"));
    }

    #[test]
    fn what_names_no_channel_is_refused() {
        for text in ["", "a:b", "ftp://x.invalid/c", "x[linux-64"] {
            let error = Settings::default().channels(text).unwrap_err();
            assert!(error.to_string().starts_with(&format!("`{text}` is no conda channel: ")), "{error}");
        }
    }
}
