//! The texts that clients send: access tokens that last and such that pass, and how they are made
//! and taken apart. Pure but for randomness.
//!
//! ```text
//! token         "floe_"  id "_" secret          id 10, secret 40 characters of [A-Za-z0-9]
//! access token  "floex_" id "_" expiry "_" mac  expiry: seconds since 1970; mac: 64 hex digits,
//!                                               HMAC-SHA-256 of all before it without the "_"
//! ```
//!
//! Neither has a `:`, `,` or `.`: both go into settings of clients that split at those. A token is
//! 238 random bits, so its SHA-256 is all that is kept of it, and a slow hash would only slow down
//! each request. An access token is checked by its mac alone, so that issuing one writes nothing.

use hmac::{Hmac, KeyInit, Mac};
use rand::distr::{Alphanumeric, SampleString};
use sha2::{Digest, Sha256};

const TOKEN_PREFIX: &str = "floe_";
const ACCESS_PREFIX: &str = "floex_";
const ID_LEN: usize = 10;
const SECRET_LEN: usize = 40;
/// Longest text that is looked at.
const TEXT_BYTES_MAX: usize = 200;

/// What is kept of a token.
pub(crate) type Hash = [u8; 32];

/// Key that access tokens are signed with.
#[derive(Clone)]
pub(crate) struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A credential taken apart; nothing of it is checked but its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// A token of this id.
    Token { id: &'a str },
    /// An access token for the token of this id, that ends so many seconds after 1970.
    Access { id: &'a str, expires_s: i64, signed: &'a str, mac: [u8; 32] },
}

/// A new id and the whole text of its token.
pub(crate) fn generate() -> (String, String) {
    let mut rng = rand::rng();
    let id = Alphanumeric.sample_string(&mut rng, ID_LEN);
    let secret = Alphanumeric.sample_string(&mut rng, SECRET_LEN);
    let text = format!("{TOKEN_PREFIX}{id}_{secret}");
    (id, text)
}

/// SHA-256 of the whole text of a token.
pub(crate) fn hash(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}

/// Takes a credential apart; none if it is not of ours.
pub(crate) fn parse(text: &str) -> Option<Parsed<'_>> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let legal = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if let Some(rest) = text.strip_prefix(TOKEN_PREFIX) {
        let (id, secret) = rest.split_once('_')?;
        let whole = id.len() == ID_LEN && secret.len() == SECRET_LEN;
        return (whole && legal(id) && legal(secret)).then_some(Parsed::Token { id });
    }
    let (signed, mac) = text.rsplit_once('_')?;
    let (id, expiry) = signed.strip_prefix(ACCESS_PREFIX)?.split_once('_')?;
    let digits = !expiry.is_empty() && expiry.bytes().all(|byte| byte.is_ascii_digit());
    if id.len() != ID_LEN || !legal(id) || !digits {
        return None;
    }
    let mac = hex::decode(mac).ok()?.try_into().ok()?;
    Some(Parsed::Access { id, expires_s: expiry.parse().ok()?, signed, mac })
}

impl Key {
    /// A new random key.
    pub(crate) fn generate() -> Self {
        Self(rand::random())
    }

    /// The key of these bytes; none if they are not 32.
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        Some(Self(hex::decode(text).ok()?.try_into().ok()?))
    }

    /// Its bytes in hex, as they are stored.
    pub(crate) fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    fn mac(&self, signed: &str) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(signed.as_bytes());
        mac
    }

    /// An access token.
    pub(crate) fn sign(&self, id: &str, expires_s: i64) -> String {
        let signed = format!("{ACCESS_PREFIX}{id}_{expires_s}");
        let mac = hex::encode(self.mac(&signed).finalize().into_bytes());
        format!("{signed}_{mac}")
    }

    /// True if `mac` is that of `signed`; takes the same time whatever differs.
    pub(crate) fn verifies(&self, signed: &str, mac: &[u8; 32]) -> bool {
        self.mac(signed).verify_slice(mac).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_have_the_characters_that_settings_of_clients_can_carry() {
        let (id, text) = generate();
        assert_eq!(parse(&text), Some(Parsed::Token { id: &id }));
        let access = Key::generate().sign(&id, 1_700_000_000);
        for text in [&text, &access] {
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
        }
        assert_ne!(generate(), generate());
    }

    #[test]
    fn the_form_on_disk_and_on_the_wire_is_the_golden_one() {
        let text = "floe_abcdefghij_0123456789012345678901234567890123456789";
        assert_eq!(parse(text), Some(Parsed::Token { id: "abcdefghij" }));
        assert_eq!(
            hex::encode(hash(text)),
            "634221129c1f35b236894a577822d1d92a033638062d53462cc80e40c723cc96",
        );
        let key = Key::from_hex(&"07".repeat(32)).unwrap();
        assert_eq!(key.to_hex(), "07".repeat(32));
        let mac = "288949d09d03a0619978a59898e399e46cfa9bbd246f557671b9669923295eaf";
        assert_eq!(key.sign("abcdefghij", 7), format!("floex_abcdefghij_7_{mac}"));
    }

    #[test]
    fn an_access_token_holds_only_as_it_was_signed() {
        let key = Key::generate();
        let text = key.sign("abcdefghij", 1_700_000_000);
        let Some(Parsed::Access { id, expires_s, signed, mac }) = parse(&text) else {
            panic!("{text}");
        };
        assert_eq!((id, expires_s), ("abcdefghij", 1_700_000_000));
        assert!(key.verifies(signed, &mac));
        assert!(!Key::generate().verifies(signed, &mac));
        let later = signed.replace("1700000000", "1800000000");
        assert!(!key.verifies(&later, &mac));
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart_or_refused(text in "(floe_|floex_)?[a-c_0-9:é]{0,80}") {
            if let Some(Parsed::Access { signed, .. }) = parse(&text) {
                prop_assert!(text.starts_with(signed));
            }
        }
    }
}
