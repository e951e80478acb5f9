//! Ids of sources and sinks as Keboola makes them of names. Pure.

use super::failure::Failure;

/// Longest id, in characters.
const ID_LEN_MAX: usize = 48;

/// The id that somebody asked for, or one made of the name; normalised in both cases.
pub(super) fn of(asked: Option<&str>, name: &str, member: &str) -> Result<String, Failure> {
    let id = normalised(asked.filter(|id| !id.is_empty()).unwrap_or(name));
    if (1..=ID_LEN_MAX).contains(&id.len()) {
        return Ok(id);
    }
    let message = format!(
        "length of body.{member} must be between 1 and {ID_LEN_MAX} but got value {id:?} (len={})",
        id.len()
    );
    Err(Failure::api(400, "invalidLength", message))
}

/// `My Source` is `my-source`, `mySource` too; accents are left out.
pub(super) fn normalised(text: &str) -> String {
    let mut id = String::with_capacity(text.len());
    let mut before = ' ';
    for letter in text.chars().map(plain) {
        let begins_word = letter.is_ascii_uppercase() && before.is_ascii_lowercase();
        let parts = begins_word || !letter.is_ascii_alphanumeric();
        if parts && !id.ends_with('-') && !id.is_empty() {
            id.push('-');
        }
        if letter.is_ascii_alphanumeric() {
            id.push(letter.to_ascii_lowercase());
        }
        before = letter;
    }
    id.trim_end_matches('-').to_owned()
}

/// A letter without its accent, for those of Western and Central Europe.
fn plain(letter: char) -> char {
    let (lower, is_upper) = match letter.to_lowercase().next() {
        Some(lower) if lower != letter => (lower, true),
        _ => (letter, false),
    };
    let plain = match lower {
        'à'..='å' | 'ā' | 'ă' | 'ą' => 'a',
        'ç' | 'ć' | 'č' => 'c',
        'ď' | 'đ' => 'd',
        'è'..='ë' | 'ē' | 'ė' | 'ę' | 'ě' => 'e',
        'ì'..='ï' | 'ī' | 'į' => 'i',
        'ł' | 'ľ' | 'ĺ' => 'l',
        'ñ' | 'ń' | 'ň' => 'n',
        'ò'..='ö' | 'ø' | 'ō' | 'ő' => 'o',
        'ř' | 'ŕ' => 'r',
        'ś' | 'š' | 'ş' => 's',
        'ť' | 'ţ' => 't',
        'ù'..='ü' | 'ū' | 'ů' | 'ű' => 'u',
        'ý' | 'ÿ' => 'y',
        'ź' | 'ż' | 'ž' => 'z',
        _ => return letter,
    };
    if is_upper { plain.to_ascii_uppercase() } else { plain }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_become_ids() {
        for (name, id) in [
            ("My Source", "my-source"),
            ("mySource", "my-source"),
            ("HTTPSource", "httpsource"),
            ("  --Příliš  žluťoučký!! ", "prilis-zlutoucky"),
            ("a_b.c", "a-b-c"),
            ("Straße", "stra-e"),
            ("...", ""),
        ] {
            assert_eq!(normalised(name), id, "{name}");
        }
        assert_eq!(of(Some("My Id"), "x", "sourceId").unwrap(), "my-id");
        assert_eq!(of(Some(""), "The Name", "sourceId").unwrap(), "the-name");
        assert!(of(None, "!", "sourceId").is_err());
        assert!(of(None, &"x".repeat(49), "sourceId").is_err());
    }

    proptest! {
        #[test]
        fn an_id_stays_what_it_is(name in "\\PC{0,60}") {
            let id = normalised(&name);
            prop_assert_eq!(normalised(&id), id.clone());
            prop_assert!(id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
        }
    }
}
