//! Signatures of JWTs: compact JWS (RFC 7515) by public keys of a JWK (RFC 7517, 7518, 8037). Pure.
//!
//! Only asymmetric algorithms, each only with a key of its kind: a key that both sides know would let
//! every client sign, and `none` everybody. The arithmetic is `ring`'s.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;

/// A JWS taken apart; nothing of it is checked but its form.
#[derive(Debug)]
pub(super) struct Jws<'a> {
    /// Which key signed it; none where the issuer has but one.
    pub(super) key_id: Option<String>,
    algorithm: Algorithm,
    /// What is signed.
    signed: &'a str,
    /// What it says, decoded.
    pub(super) payload: Vec<u8>,
    signature: Vec<u8>,
}

/// What its first part says. Extensions that must be understood are not.
#[derive(Deserialize)]
struct Header {
    alg: Algorithm,
    kid: Option<String>,
    crit: Option<serde_json::Value>,
}

/// `alg`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl<'a> Jws<'a> {
    /// Takes a text apart; none if it is no JWS of an algorithm that is taken.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
        if header.crit.is_some() {
            return None;
        }
        let (payload, signature) = (decode(payload)?, decode(signature)?);
        Some(Self { key_id: header.kid, algorithm: header.alg, signed, payload, signature })
    }

    /// True if `key` signed it, by an algorithm that the key is for.
    pub(super) fn is_signed_by(&self, key: &Key) -> bool {
        if key.algorithm.is_some_and(|own| own != self.algorithm) {
            return false;
        }
        let (signed, signature) = (self.signed.as_bytes(), &self.signature[..]);
        match (&key.public, self.rsa(), self.curve()) {
            (Public::Rsa { n, e }, Some(parameters), _) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, signed, signature).is_ok()
            }
            (Public::Point(curve, point), _, Some((own, algorithm))) if *curve == own => {
                UnparsedPublicKey::new(algorithm, point).verify(signed, signature).is_ok()
            }
            _ => false,
        }
    }

    fn rsa(&self) -> Option<&'static RsaParameters> {
        Some(match self.algorithm {
            Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
            Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
            Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
            Algorithm::ES256 | Algorithm::ES384 | Algorithm::EdDSA => return None,
        })
    }

    fn curve(&self) -> Option<(Curve, &'static dyn VerificationAlgorithm)> {
        Some(match self.algorithm {
            Algorithm::ES256 => (Curve::P256, &signature::ECDSA_P256_SHA256_FIXED),
            Algorithm::ES384 => (Curve::P384, &signature::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDSA => (Curve::Ed25519, &signature::ED25519),
            _ => return None,
        })
    }
}

/// `crv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Curve {
    #[serde(rename = "P-256")]
    P256,
    #[serde(rename = "P-384")]
    P384,
    Ed25519,
}

/// A public key that signatures are checked with.
#[derive(Debug)]
pub(super) struct Key {
    /// `kid`.
    pub(super) id: Option<String>,
    /// The one algorithm that it is for; none is any of its kind.
    algorithm: Option<Algorithm>,
    public: Public,
}

#[derive(Debug)]
enum Public {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Point(Curve, Vec<u8>),
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    r#use: Option<String>,
    alg: Option<Algorithm>,
    kid: Option<String>,
    crv: Option<Curve>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Key {
    /// The key of a JWK; none if it does not sign, or is of a kind that is not taken.
    pub(super) fn parse(jwk: &serde_json::Value) -> Option<Self> {
        let jwk = Jwk::deserialize(jwk).ok()?;
        if jwk.r#use.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let decode = |part: Option<String>| URL_SAFE_NO_PAD.decode(part?).ok();
        let public = match (&*jwk.kty, jwk.crv) {
            ("RSA", _) => Public::Rsa { n: decode(jwk.n)?, e: decode(jwk.e)? },
            ("EC", Some(curve @ (Curve::P256 | Curve::P384))) => {
                // Uncompressed, as SEC 1 (section 2.3.3) writes a point.
                Public::Point(curve, [vec![4], decode(jwk.x)?, decode(jwk.y)?].concat())
            }
            ("OKP", Some(Curve::Ed25519)) => Public::Point(Curve::Ed25519, decode(jwk.x)?),
            _ => return None,
        };
        Some(Self { id: jwk.kid, algorithm: jwk.alg, public })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// RFC 7515, appendix A.3.
    const ES256: (&str, &str, &str) = (
        "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
         DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    );
    /// RFC 8037, appendix A.4.
    const EDDSA: (&str, &str) = (
        "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
         hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    );
    // Made with another library (pyca/cryptography).
    const N: &str = "pkYRLowesrr5S3aT3rGlZZFND1s0rDMmWfWSaiyDn6I5K_LF0kdZ-M357vfrxQXwOL9KsymyK9kMufKteWUfZVCs_htK_ijSIxvX1uAIRv77V-QP6Pbq3x1GZijUrYUu-yCap6rP8nihm1QYCbiJ_QjTa4SPXgGJS-xzIqSTJI7gH_NHPPuU6iTGR28qCAaLiyvoJ9cgp1MuHIqaZG_YVTuoG45KsJl0meodekeFphDTjonNa2a_9filo6g5_tjzwquuLwTrQIzifUGYcWJb9MLUnea3TLjvOYQs9K4dKM6WFjrV0DDvIWCSttpNTh7SOWvqK6UvRFBZAqB2YNEKpw";
    const RS256: &str = "eyJhbGciOiAiUlMyNTYifQ.cnNh.KC_kiEzNxYdGUGQD6AjsKMruB9gYned91q7_bPtsS1W_teDZ95tmKees_-e7SXoDhU9fGnVerbpX09QdBBfbPGw1VdU8NOqlHs2JXtlJhzBi_bnAqvrBI5A19P3lNQycAhpd8sruoqRrvAsIb08lZzuxtZhmShoaU4XaiqNUOydIhfTegnRtlZQEOwedSy-dONpCuoZwvm6QhGywbO1fPmEeCJfM7pN_fIynb_JgoiWp_LJkjDTCeSokRJX0pwVJCDPJ_fl5mGd0VgCnjdx6TqvrHDwlx-f9fqJqm9n1k2ga0C1P5T1nq4DZNLny0ek-48ylhIsa4Z-kOmtKbROOwg";
    const PS512: &str = "eyJhbGciOiAiUFM1MTIifQ.cnNh.XCO7Ula4FfS3_rv2MMcmcpbgdnhdLUh8Vt7USOKml8ElQydqE_Du9_Wejv2ShEAgcBH-Td1nYgJIkJCKHuezpAqafoBQBfxLHbaJsFGXcfXH7h7a7lS-hkCjrricQrpan1bILd5Q0pnWOfgPvjvrpnjW_1-fKaNzJ27v5ojtHt4SA_X-oqvbkS1cYQdQ1knfyGGngY5ewWaTdBY53HXBXqsCq6gSQsH-D3FYjEBxcr9URo0TmZZ02JqWGAnl0biDlaTo1WlzFR61QRxmHmB2mXVjlOS4TC9GdNB77P8eh3d9rZbeK_XtyduiNRl6bqKEbTKkMpesCp5sLEDDkAPN1g";
    const ES384: (&str, &str, &str) = (
        "EjKvPBPHt-DFEHDtUrfBabcJWADA9zgc_YlCe9dHK3a5JwnKCYAYFe4A-lazZRy4",
        "oQCSX0StYiwR5piPxWat7epJDbdfGOh-AkHjjCw0IB_Juapn2fe5XldkEE3XWuWY",
        "eyJhbGciOiJFUzM4NCJ9.cDM4NA.3ppD1hCg2Lxr1bHWFnDgxg8Amg-ZJdnfYYLfc4GIfNM7ix4SQ6dFEAKUZ_x4lfuamVa5fUxUhzvec7jMm4tPiVgKRect4M3P-ksGepQJ1ErnIceMD1Ya_aXxgteD2vMQ",
    );

    fn is_signed(jwk: &Value, text: &str) -> bool {
        let key = Key::parse(jwk).unwrap();
        Jws::parse(text).is_some_and(|jws| jws.is_signed_by(&key))
    }

    /// Each kind of key with what it signed.
    fn signed() -> Vec<(Value, &'static str)> {
        let point = |curve: &str, (x, y, _): (&str, &str, &str)| json!({ "kty": "EC", "crv": curve, "x": x, "y": y });
        let rsa = json!({ "kty": "RSA", "n": N, "e": "AQAB" });
        vec![
            (point("P-256", ES256), ES256.2),
            (point("P-384", ES384), ES384.2),
            (json!({ "kty": "OKP", "crv": "Ed25519", "x": EDDSA.0 }), EDDSA.1),
            (rsa.clone(), RS256),
            (rsa, PS512),
        ]
    }

    #[test]
    fn signatures_are_those_of_the_published_examples_and_of_others() {
        for (at, (key, text)) in signed().iter().enumerate() {
            for (other, (_, theirs)) in signed().iter().enumerate() {
                let same_key = at == other || at.min(other) == 3;
                assert_eq!(is_signed(key, theirs), same_key, "{key} {theirs}");
            }
            // In the payload, and in the signature.
            for place in [text.find('.').unwrap() + 1, text.len() - 4] {
                let mut changed = (*text).to_owned();
                let was = changed.remove(place);
                changed.insert(place, if was == 'A' { 'B' } else { 'A' });
                assert!(!is_signed(key, &changed), "{place}");
            }
        }
    }

    #[test]
    fn a_key_is_for_the_algorithm_that_it_names() {
        let (mut key, text) = signed().remove(3);
        for (algorithm, wanted) in [("RS256", true), ("RS512", false), ("PS256", false)] {
            key["alg"] = json!(algorithm);
            assert_eq!(is_signed(&key, text), wanted, "{algorithm}");
        }
        key["alg"] = json!("HS256");
        assert!(Key::parse(&key).is_none());
    }

    #[test]
    fn what_is_no_jws_of_a_known_algorithm_is_none() {
        let with = |header: &str| {
            let text = format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(header));
            Jws::parse(&text).is_some()
        };
        assert!(with(r#"{"alg":"ES256","kid":"k","typ":"JWT"}"#));
        for bad in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"HS256"}"#,
            r#"{"alg":"es256"}"#,
            r#"{"alg":"ES256","crit":["exp"]}"#,
            r#"{"kid":"k"}"#,
            "no JSON",
        ] {
            assert!(!with(bad), "{bad}");
        }
        for bad in ["", ".", "..", "a.b.c", "e30", "e30.e30", "e30.e30.e30.e30", "e30=.e30.e30"] {
            assert!(Jws::parse(bad).is_none(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[a-zA-Z0-9_.=-]{0,60}") {
            if let Some(jws) = Jws::parse(&text) {
                let (key, _) = signed().remove(0);
                proptest::prop_assert!(!jws.is_signed_by(&Key::parse(&key).unwrap()));
            }
        }
    }
}
