//! Certificates that count beside the host's.

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, parse_pem};

/// Whom a client believes beside the host's authorities, and how it says who it is itself.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    pub(crate) authorities: Vec<Certificate<'static>>,
    pub(crate) identity: Option<ClientCert>,
    pub(crate) is_blind: bool,
}

impl Trust {
    /// Believes what the certificates of this PEM text have signed.
    ///
    /// # Errors
    /// Why it has none.
    pub fn add_authorities(&mut self, pem: &[u8]) -> Result<(), String> {
        self.authorities.extend(certificates(pem)?);
        Ok(())
    }

    /// Shows this chain of certificates to servers that ask, with the key of the first one; both are PEM text.
    ///
    /// # Errors
    /// Why they are none.
    pub fn set_identity(&mut self, chain: &[u8], key: &[u8]) -> Result<(), String> {
        let key = PrivateKey::from_pem(key).map_err(|error| format!("it has no private key: {error}"))?;
        self.identity = Some(ClientCert::new_with_certs(&certificates(chain)?, key));
        Ok(())
    }

    /// Believes whoever answers, whatever certificate is shown.
    #[must_use]
    pub fn blind(self) -> Self {
        Self { is_blind: true, ..self }
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.authorities.is_empty() && self.identity.is_none() && !self.is_blind
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let mut found = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| error.to_string())? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err("it has no certificate in PEM form".to_owned()) } else { Ok(found) }
}
