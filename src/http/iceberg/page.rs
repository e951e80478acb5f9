//! Lists in pages. A page token is the hex form of the last name of the page before, so a name
//! that comes or goes between two pages shifts nothing. Pure.

use serde::Deserialize;

use super::error::Failure;

/// Entries of a page if the client names no size.
const PAGE_SIZE_DEFAULT: usize = 1000;

/// The query parameters of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Paging {
    pub(crate) page_token: Option<String>,
    page_size: Option<String>,
    /// Namespaces only: whose children to list.
    pub(crate) parent: Option<String>,
}

impl Paging {
    /// One page of `all`, which `name` sorts, and the token of the next. A client that asks for
    /// no pages gets everything.
    pub(crate) fn cut<T>(
        &self,
        mut all: Vec<T>,
        name: impl Fn(&T) -> String,
    ) -> Result<(Vec<T>, Option<String>), Failure> {
        if self.page_token.is_none() && self.page_size.is_none() {
            return Ok((all, None));
        }
        all.sort_by_cached_key(&name);
        let size = match self.page_size.as_deref() {
            None | Some("") => PAGE_SIZE_DEFAULT,
            Some(text) => text.parse().ok().filter(|size| *size > 0).ok_or_else(|| {
                Failure::bad_request(format!("pageSize is {text:?}; a number from 1 on is allowed"))
            })?,
        };
        let after = match self.page_token.as_deref() {
            None | Some("") => None,
            Some(token) => Some(decode(token)?),
        };
        let start = after.map_or(0, |after| all.partition_point(|entry| name(entry) <= after));
        let mut page = all.split_off(start);
        let more = page.len() > size;
        page.truncate(size);
        let next = page.last().filter(|_| more).map(|entry| hex::encode(name(entry)));
        Ok((page, next))
    }
}

fn decode(token: &str) -> Result<String, Failure> {
    hex::decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| Failure::bad_request("pageToken is none of this catalog's".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paging(token: Option<&str>, size: Option<&str>) -> Paging {
        Paging {
            page_token: token.map(str::to_owned),
            page_size: size.map(str::to_owned),
            parent: None,
        }
    }

    #[test]
    fn pages_cover_the_list_once_even_if_it_changes() {
        let names = || vec!["c".to_owned(), "a".to_owned(), "b".to_owned()];
        assert_eq!(paging(None, None).cut(names(), String::clone).unwrap(), (names(), None));
        let (page, next) = paging(Some(""), Some("2")).cut(names(), String::clone).unwrap();
        assert_eq!(page, ["a", "b"]);
        let without_b = vec!["a".to_owned(), "c".to_owned()];
        let (page, next) = paging(next.as_deref(), None).cut(without_b, String::clone).unwrap();
        assert_eq!((page, next), (vec!["c".to_owned()], None));
        let exact = paging(None, Some("3")).cut(names(), String::clone).unwrap();
        assert_eq!(exact.1, None);
    }

    #[test]
    fn bad_tokens_and_sizes_are_refused() {
        for (token, size) in
            [(Some("zz"), None), (Some("ff"), None), (None, Some("0")), (None, Some("-1"))]
        {
            assert!(paging(token, size).cut(vec!["a".to_owned()], String::clone).is_err());
        }
    }
}
