//! Logins of Google's registry: a service account's key signs a claim, which its token service takes for an access token (the JWT
//! bearer grant of RFC 7523), and that is the password.

use std::time::SystemTime;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use lamina_fetch::{Client, Reply};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;

use super::Login;
use crate::RegistryError;

/// The user of access tokens.
const USER: &str = "oauth2accesstoken";
const TOKEN_SERVICE: &str = "https://oauth2.googleapis.com/token";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// How long the claim is good for, in seconds.
const LIFETIME: u64 = 3600;
/// Most bytes of an answer.
const LIMIT: u64 = 1 << 20;

/// What a key file of a service account says.
#[derive(Deserialize)]
struct ServiceAccount {
    #[serde(rename = "type")]
    kind: String,
    client_email: String,
    private_key: String,
    private_key_id: Option<String>,
    token_uri: Option<String>,
}

/// Asks the token service for a password.
pub(super) fn login(json: &str, client: &Client, now: SystemTime) -> Result<Login, RegistryError> {
    let wrong = |reason: &str| RegistryError::Secret(format!("its secret's `SERVICE_ACCOUNT_JSON` {reason}"));
    // The parser's errors may quote what is secret.
    let account: ServiceAccount = serde_json::from_str(json).map_err(|_| {
        wrong("is no key file of a service account, as `gcloud iam service-accounts keys create` makes it")
    })?;
    if account.kind != "service_account" {
        return Err(wrong(&format!("is of the type `{}`, and not `service_account`", account.kind)));
    }
    let key = key(&account.private_key).ok_or_else(|| wrong("has a private key that cannot be read"))?;
    let url = account.token_uri.as_deref().unwrap_or(TOKEN_SERVICE);
    let claim = claim(&account, url, &key, now).ok_or_else(|| wrong("has a private key that cannot sign"))?;
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.extend_pairs([("grant_type", GRANT), ("assertion", &claim)]);
    let headers = [("content-type", "application/x-www-form-urlencoded".to_owned())];
    let Reply { status, bytes } = client.post(url, &headers, form.finish().as_bytes(), LIMIT)?;
    token(status, &bytes)
        .map(|token| Login::password(USER, token))
        .map_err(|reason| RegistryError::Provider { provider: "Google", reason: format!("`{url}` {reason}") })
}

/// The access token of an answer.
fn token(status: u16, bytes: &[u8]) -> Result<String, String> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Answer {
        access_token: Option<String>,
        error: String,
        error_description: String,
    }
    let answer: Answer = serde_json::from_slice(bytes).unwrap_or_default();
    match answer.access_token {
        Some(token) if status == 200 => Ok(token),
        _ => Err(format!("answered with status {status}: {} {}", answer.error, answer.error_description)),
    }
}

/// The key in a PEM file.
fn key(pem: &str) -> Option<RsaKeyPair> {
    let text: String = pem.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect();
    RsaKeyPair::from_pkcs8(&BASE64.decode(text.as_bytes()).ok()?).ok()
}

/// A signed claim to be the account.
fn claim(account: &ServiceAccount, audience: &str, key: &RsaKeyPair, now: SystemTime) -> Option<String> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let header = serde_json::json!({"alg": "RS256", "typ": "JWT", "kid": account.private_key_id});
    let claims = serde_json::json!({
        "iss": account.client_email,
        "scope": SCOPE,
        "aud": audience,
        "iat": now,
        "exp": now + LIFETIME,
    });
    let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let text = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).ok()?;
    Some(format!("{text}.{}", encode(&signature)))
}
