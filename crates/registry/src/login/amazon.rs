//! Logins of Amazon's registry: `GetAuthorizationToken` of ECR, and `AssumeRole` of STS before it, in their JSON and query
//! protocols, with requests that are signed by Signature Version 4.

use std::time::SystemTime;

use data_encoding::{BASE64, HEXLOWER};
use lamina_fetch::{Client, Reply};
use lamina_ground::EnvVars;
use ring::hmac;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::Login;
use crate::{Reference, RegistryError};

pub(super) const KEY: &str = "AWS_ACCESS_KEY_ID";
pub(super) const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";
pub(super) const ROLE: &str = "AWS_ROLE_ARN";
const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";
const REGIONS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
/// What sessions of roles are called in Amazon's records.
const SESSION: &str = "lamina";
/// Most bytes of an answer.
const LIMIT: u64 = 1 << 20;

/// Keys that requests are signed with.
struct Keys {
    id: String,
    secret: String,
    session: Option<String>,
}

/// Asks ECR for a password.
pub(super) fn login(
    value: &dyn Fn(&str) -> Option<String>,
    reference: &Reference,
    client: &Client,
    now: SystemTime,
) -> Result<Login, RegistryError> {
    let region = REGIONS.iter().find_map(|name| value(name)).or_else(|| region_of(&reference.registry));
    let region = region.ok_or_else(|| RegistryError::Secret("its secret has no `AWS_REGION`".to_owned()))?;
    if region.is_empty() || !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(RegistryError::Secret(format!("its secret has `{region}` as `AWS_REGION`, which is none")));
    }
    let keys = match (value(KEY), value(SECRET_KEY)) {
        (Some(id), Some(secret)) => Some(Keys { id, secret, session: value(SESSION_TOKEN) }),
        _ => None,
    };
    let keys = match (value(ROLE), keys) {
        (Some(role), keys) => assume(&role, keys.as_ref(), &region, client, now)?,
        (None, Some(keys)) => keys,
        (None, None) => return Err(RegistryError::Secret("its secret has no key".to_owned())),
    };
    let request = Request {
        url: endpoint(EnvVars::AWS_ENDPOINT_URL_ECR, &format!("api.ecr.{region}"), &region)?,
        headers: vec![
            ("content-type", "application/x-amz-json-1.1".to_owned()),
            ("x-amz-target", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken".to_owned()),
        ],
        body: b"{}".to_vec(),
    };
    let answer = request.send(Some((&keys, "ecr", &region)), client, now)?;
    password(&answer).ok_or_else(|| failed("its answer has no token"))
}

/// The region in the name of a registry, `ACCOUNT.dkr.ecr.REGION.amazonaws.com`.
fn region_of(registry: &str) -> Option<String> {
    let (_, rest) = registry.split_once(".dkr.ecr.").or_else(|| registry.split_once(".dkr.ecr-fips."))?;
    rest.split_once(".amazonaws.").map(|(region, _)| region.to_owned())
}

/// Where a service is: as the variable of Amazon's own programs says, or at its usual address.
fn endpoint(variable: &str, host: &str, region: &str) -> Result<Url, RegistryError> {
    let set = [variable, EnvVars::AWS_ENDPOINT_URL].into_iter().find_map(|name| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
        Some((name, value))
    });
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let (name, text) = set.unwrap_or((variable, format!("https://{host}.{domain}/")));
    Url::parse(&text).map_err(|error| failed(&format!("`{name}` is `{text}`, which is no address: {error}")))
}

/// The user and the password of ECR's answer.
fn password(answer: &[u8]) -> Option<Login> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        authorization_data: Vec<Authorization>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Authorization {
        authorization_token: String,
    }
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    let token = BASE64.decode(answer.authorization_data.first()?.authorization_token.as_bytes()).ok()?;
    let token = String::from_utf8(token).ok()?;
    token.split_once(':').map(|(user, password)| Login::password(user, password))
}

/// Keys of a role, given to who has keys that may have it, or a token that shows who this machine is.
fn assume(
    role: &str,
    keys: Option<&Keys>,
    region: &str,
    client: &Client,
    now: SystemTime,
) -> Result<Keys, RegistryError> {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.extend_pairs([("Version", "2011-06-15"), ("RoleArn", role), ("RoleSessionName", SESSION)]);
    if keys.is_some() {
        form.append_pair("Action", "AssumeRole");
    } else {
        let path = std::env::var(EnvVars::AWS_WEB_IDENTITY_TOKEN_FILE).map_err(|_| {
            RegistryError::Secret(format!(
                "its secret names the role `{role}`, which is given to who has keys (`{KEY}` and `{SECRET_KEY}`), or a token in \
                 the file that the variable `{}` names",
                EnvVars::AWS_WEB_IDENTITY_TOKEN_FILE
            ))
        })?;
        let token =
            fs_err::read_to_string(&path).map_err(|error| RegistryError::Logins { path, reason: error.to_string() })?;
        form.extend_pairs([("Action", "AssumeRoleWithWebIdentity"), ("WebIdentityToken", token.trim())]);
    }
    let request = Request {
        url: endpoint(EnvVars::AWS_ENDPOINT_URL_STS, &format!("sts.{region}"), region)?,
        headers: vec![("content-type", "application/x-www-form-urlencoded".to_owned())],
        body: form.finish().into_bytes(),
    };
    let answer = request.send(keys.map(|keys| (keys, "sts", region)), client, now)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    // Keys and tokens have no letters that XML writes in another way.
    let part = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once("</").map(|(value, _)| value.trim().to_owned())
    };
    match (part("AccessKeyId"), part("SecretAccessKey"), part("SessionToken")) {
        (Some(id), Some(secret), session @ Some(_)) => Ok(Keys { id, secret, session }),
        _ => Err(failed("its answer to AssumeRole has no keys")),
    }
}

fn failed(reason: &str) -> RegistryError {
    RegistryError::Provider { provider: "Amazon", reason: reason.to_owned() }
}

/// A request of a service of Amazon's.
struct Request {
    url: Url,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Request {
    /// Sends it, signed if there are keys for a service in a region, and answers what came if it was taken.
    fn send(
        mut self,
        signer: Option<(&Keys, &str, &str)>,
        client: &Client,
        now: SystemTime,
    ) -> Result<Vec<u8>, RegistryError> {
        if let Some((keys, service, region)) = signer {
            self.sign(keys, service, region, &moment(now));
        }
        let Reply { status, bytes } = client.post(self.url.as_str(), &self.headers, &self.body, LIMIT)?;
        if (200..300).contains(&status) {
            return Ok(bytes);
        }
        Err(failed(&format!("`{}` answered with status {status}: {}", self.url, explanation(&bytes))))
    }

    /// Adds the headers that say who sends it.
    fn sign(&mut self, keys: &Keys, service: &str, region: &str, moment: &str) {
        let host = &self.url[url::Position::BeforeHost..url::Position::AfterPort];
        let mut signed: Vec<(&str, String)> = vec![("host", host.to_owned()), ("x-amz-date", moment.to_owned())];
        signed.extend(keys.session.iter().map(|token| ("x-amz-security-token", token.clone())));
        signed.extend(self.headers.iter().cloned());
        signed.sort_unstable();
        let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines: Vec<_> = signed.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let lines = lines.concat();
        let body = HEXLOWER.encode(&Sha256::digest(&self.body));
        let canonical = format!("POST\n{}\n\n{lines}\n{names}\n{body}", self.url.path());
        let day = &moment[..8];
        let scope = format!("{day}/{region}/{service}/aws4_request");
        let canonical = HEXLOWER.encode(&Sha256::digest(canonical.as_bytes()));
        let text = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{canonical}");
        let begin = format!("AWS4{}", keys.secret).into_bytes();
        let key =
            [day, region, service, "aws4_request"].iter().fold(begin, |key, part| authenticate(&key, part.as_bytes()));
        let signature = HEXLOWER.encode(&authenticate(&key, text.as_bytes()));
        let credential = format!("{}/{scope}", keys.id);
        self.headers.push(("x-amz-date", moment.to_owned()));
        self.headers.extend(keys.session.iter().map(|token| ("x-amz-security-token", token.clone())));
        self.headers.push((
            "authorization",
            format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"),
        ));
    }
}

fn authenticate(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

/// A moment as `YYYYMMDDTHHMMSSZ`, made of `Sun, 06 Nov 1994 08:49:37 GMT`.
fn moment(time: SystemTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = httpdate::fmt_http_date(time);
    let month = MONTHS.iter().position(|month| *month == &text[8..11]).unwrap_or_default() + 1;
    format!("{}{month:02}{}T{}Z", &text[12..16], &text[5..7], text[17..25].replace(':', ""))
}

/// What an error says, in JSON or in XML.
fn explanation(bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        #[serde(alias = "Message")]
        message: String,
    }
    if let Ok(Refusal { message }) = serde_json::from_slice(bytes) {
        return message;
    }
    let text = String::from_utf8_lossy(bytes);
    let message = text.split_once("<Message>").and_then(|(_, rest)| rest.split_once("</Message>"));
    message.map_or_else(|| "it did not say why".to_owned(), |(message, _)| message.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Amazon's own test suite for signatures.
    #[test]
    fn signatures_are_those_of_amazons_examples() {
        let keys = || Keys {
            id: "AKIDEXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session: None,
        };
        let form = ("content-type", "application/x-www-form-urlencoded".to_owned());
        for (headers, body, signature) in [
            (vec![], "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            (vec![form], "Param1=value1", "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"),
        ] {
            let url = Url::parse("https://example.amazonaws.com/").unwrap();
            let mut request = Request { url, headers, body: body.as_bytes().to_vec() };
            request.sign(&keys(), "service", "us-east-1", "20150830T123600Z");
            let (_, authorization) = request.headers.last().unwrap();
            assert!(authorization.ends_with(&format!("Signature={signature}")), "{authorization}");
        }
    }

    #[test]
    fn moments_and_regions_are_read() {
        assert_eq!(moment(SystemTime::UNIX_EPOCH + Duration::from_mins(24_015_636)), "20150830T123600Z");
        let region = |host: &str| region_of(host);
        assert_eq!(region("1.dkr.ecr.eu-west-1.amazonaws.com").as_deref(), Some("eu-west-1"));
        assert_eq!(region("1.dkr.ecr.cn-north-1.amazonaws.com.cn").as_deref(), Some("cn-north-1"));
        assert_eq!(region("registry.example"), None);
        assert!(endpoint("NONE", "api.ecr.cn-north-1", "cn-north-1").unwrap().as_str().ends_with(".amazonaws.com.cn/"));
    }
}
