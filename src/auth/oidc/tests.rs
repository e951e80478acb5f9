//! JWTs signed here, by a key made for these tests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;

use super::*;

const NOW_MS: i64 = 1_700_000_000_000;
const NOW_S: i64 = NOW_MS / 1_000;

const PRIVATE: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgZly975ijG1ckTP/v6ul+\
    bO+tenu6RE0DaN/Y1e+ISO2hRANCAAShaRSB4rtOMdssB7SdxTNX7Rr7IrQQ4dWlbEf0sFIZVole6uVobhHkt+jYNie8\
    3qDX2VElTHV+WofhHYrSShKb";

fn key_set() -> Value {
    json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "kid": "k1", "use": "sig", "alg": "ES256",
        "x": "oWkUgeK7TjHbLAe0ncUzV-0a-yK0EOHVpWxH9LBSGVY",
        "y": "iV7q5WhuEeS36Ng2J7zeoNfZUSVMdX5ah-EditJKEps",
    }] })
}

fn options() -> config::Oidc {
    config::Oidc {
        issuer: "https://id.example".to_owned(),
        audience: "floe".to_owned(),
        jwks_uri: None,
        claim: "sub".to_owned(),
        scope: None,
    }
}

fn claims(change: Value) -> Value {
    let mut claims = json!({
        "iss": "https://id.example", "aud": "floe", "sub": "shop", "exp": NOW_S + 60,
    });
    claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    claims
}

fn signed(claims: &Value) -> String {
    let (random, der) = (SystemRandom::new(), STANDARD.decode(PRIVATE).unwrap());
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random).unwrap();
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"k1"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = key.sign(&random, signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn checked(options: &config::Oidc, jwt: &str) -> Result<Vouched, Refusal> {
    check(options, &parse(jwt)?, &keys::keys(&key_set())[0], NOW_MS)
}

fn with(change: Value) -> Result<Vouched, Refusal> {
    checked(&options(), &signed(&claims(change)))
}

#[test]
fn a_jwt_of_the_issuer_says_whose_it_is_and_until_when() {
    let found = with(json!({})).unwrap();
    assert_eq!(found.identity, Identity::Subject("shop".to_owned()));
    assert_eq!(found.expires_ms, (NOW_S + 60 + LEEWAY_S) * 1_000);
    assert!(with(json!({ "aud": ["other", "floe"] })).is_ok());
    assert!(with(json!({ "exp": NOW_S as f64 + 0.5 })).is_ok());
    let other = config::Oidc { claim: "client_id".to_owned(), ..options() };
    let jwt = signed(&claims(json!({ "client_id": "loader" })));
    let found = checked(&other, &jwt).unwrap();
    assert_eq!(found.identity, Identity::Subject("loader".to_owned()));
}

#[test]
fn what_others_signed_or_what_is_for_others_is_refused() {
    for (change, wanted) in [
        (json!({ "iss": "https://evil.example" }), "iss"),
        (json!({ "iss": null }), "iss"),
        (json!({ "aud": "other" }), "aud"),
        (json!({ "aud": ["other"] }), "aud"),
        (json!({ "aud": null }), "aud"),
        (json!({ "exp": null }), "exp"),
        (json!({ "exp": "soon" }), "exp"),
        (json!({ "nbf": NOW_S + LEEWAY_S + 1 }), "nbf"),
        (json!({ "sub": null }), "auth.oidc.claim"),
        (json!({ "sub": "" }), "auth.oidc.claim"),
        (json!({ "sub": 7 }), "auth.oidc.claim"),
    ] {
        let mut sent = claims(change.clone());
        sent.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let Err(Refusal::Jwt(reason)) = checked(&options(), &signed(&sent)) else {
            panic!("{change} passes")
        };
        assert!(reason.contains(wanted), "{change}: {reason}");
    }
    assert_eq!(with(json!({ "exp": NOW_S - LEEWAY_S })), Err(Refusal::Expired));
    assert!(with(json!({ "exp": NOW_S - LEEWAY_S + 1 })).is_ok(), "clocks differ");
    assert!(with(json!({ "nbf": NOW_S + LEEWAY_S })).is_ok(), "clocks differ");
}

#[test]
fn a_signature_that_is_changed_left_out_or_made_with_a_shared_key_is_refused() {
    let jwt = signed(&claims(json!({})));
    let parts: Vec<&str> = jwt.split('.').collect();
    let forged = signed(&claims(json!({ "sub": "admin" })));
    let payload = forged.split('.').nth(1).unwrap();
    let swapped = format!("{}.{payload}.{}", parts[0], parts[2]);
    assert_eq!(checked(&options(), &swapped), Err(Refusal::Jwt("its signature is wrong")));
    // {"alg":"none"} and {"alg":"HS256"}
    for header in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJIUzI1NiJ9"] {
        let refused = checked(&options(), &format!("{header}.{payload}.AA")).unwrap_err();
        assert!(refused.to_string().contains("malformed"), "{refused}");
    }
    assert!(is_jwt(&jwt) && !is_jwt("floe_a_b") && !is_jwt("eyJ"));
    let long = format!("eyJ{}.a.a", "a".repeat(JWT_BYTES_MAX));
    assert!(parse(&long).unwrap_err().to_string().contains("16 KiB"));
}

#[test]
fn a_scope_is_asked_for_where_the_server_says_so() {
    let scoped = config::Oidc { scope: Some("ingest".to_owned()), ..options() };
    let with = |change: Value| checked(&scoped, &signed(&claims(change))).is_ok();
    assert!(with(json!({ "scope": "openid ingest" })));
    assert!(with(json!({ "scp": ["ingest"] })));
    assert!(!with(json!({ "scope": "ingestion" })));
    assert!(!with(json!({})));
}
