//! Pages of lists: `?limit=N` answers with the first N, and with `next` if there are more; `?after=NEXT`
//! with those that follow. Without either a list is whole, as it always was.
//!
//! A cursor is the key of the last one that was shown. So nothing is shown twice or left out while
//! others come and go, and one that is gone by then is still a place in the order.

use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::problem::Problem;

/// Longest page.
const LIMIT_MAX: usize = 1_000;
/// Longest cursor, in bytes: names of topics and ids are shorter.
const CURSOR_BYTES_MAX: usize = 1_024;

/// Where a page begins and how long it may be.
#[derive(Debug, Default, Deserialize)]
pub(in crate::http) struct Paging {
    limit: Option<usize>,
    after: Option<String>,
}

pub(in crate::http) type Asked = Result<Query<Paging>, QueryRejection>;

/// A part of a list.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http) struct Page<T> {
    items: Vec<T>,
    next: Option<String>,
}

impl<T> Page<T> {
    /// The page of `all` that was asked for, in the order of their keys, each of which is that of one
    /// alone; all as they are if no page was asked for.
    ///
    /// # Errors
    /// `bad_request` for a limit or a cursor that none can be.
    pub(in crate::http) fn of(
        asked: Asked,
        all: impl IntoIterator<Item = T>,
        key: impl Fn(&T) -> String,
    ) -> Result<Self, Problem> {
        let bad = |error: QueryRejection| Problem::new("bad_request", error.body_text());
        let Query(Paging { limit, after }) = asked.map_err(bad)?;
        check(limit, after.as_deref())?;
        if limit.is_none() && after.is_none() {
            return Ok(Self { items: all.into_iter().collect(), next: None });
        }
        let keyed = all.into_iter().map(|item| (key(&item), item));
        let mut keyed: Vec<(String, T)> =
            keyed.filter(|(key, _)| after.as_ref().is_none_or(|after| key > after)).collect();
        keyed.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut next = None;
        if let Some(limit) = limit.filter(|limit| *limit < keyed.len()) {
            keyed.truncate(limit);
            next = keyed.last().map(|(key, _)| key.clone());
        }
        Ok(Self { items: keyed.into_iter().map(|(_, item)| item).collect(), next })
    }

    /// [`Self::of`] with a limit where none was asked for.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(in crate::http) fn of_at_most(
        limit: usize,
        asked: Asked,
        all: impl IntoIterator<Item = T>,
        key: impl Fn(&T) -> String,
    ) -> Result<Self, Problem> {
        let limited = |Query(asked): Query<Paging>| {
            Query(Paging { limit: asked.limit.or(Some(limit)), ..asked })
        };
        Self::of(asked.map(limited), all, key)
    }

    pub(in crate::http) fn items(&self) -> &[T] {
        &self.items
    }

    /// Ends the page after its first `count`, where there was no time for the others.
    pub(in crate::http) fn end_after(&mut self, count: usize, key: impl Fn(&T) -> String) {
        if (1..self.items.len()).contains(&count) {
            self.items.truncate(count);
            self.next = self.items.last().map(key);
        }
    }

    /// The answer, with what is shown of the page under `name`.
    pub(in crate::http) fn answer_with(self, name: &str, shown: Vec<Value>) -> Json<Value> {
        let mut answer = json!({ name: shown });
        if let Some(next) = self.next {
            answer["next"] = next.into();
        }
        Json(answer)
    }

    /// The answer, with the page under `name`.
    pub(in crate::http) fn answer(self, name: &str, show: impl Fn(&T) -> Value) -> Json<Value> {
        let shown = self.items.iter().map(show).collect();
        self.answer_with(name, shown)
    }
}

fn check(limit: Option<usize>, after: Option<&str>) -> Result<(), Problem> {
    if let Some(limit) = limit.filter(|limit| !(1..=LIMIT_MAX).contains(limit)) {
        let detail = format!("limit = {limit} is refused: allowed are 1 to {LIMIT_MAX}");
        return Err(Problem::new("bad_request", detail));
    }
    let is_cursor = |after: &str| {
        (1..=CURSOR_BYTES_MAX).contains(&after.len()) && !after.contains(char::is_control)
    };
    if after.is_some_and(|after| !is_cursor(after)) {
        let detail = "after is refused: send what next says in the answer before";
        return Err(Problem::new("bad_request", detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(
        limit: Option<usize>,
        after: Option<&str>,
        all: &[&str],
    ) -> Result<Page<String>, Problem> {
        let after = after.map(str::to_owned);
        let all = all.iter().map(|one| (*one).to_owned());
        Page::of(Ok(Query(Paging { limit, after })), all, Clone::clone)
    }

    #[test]
    fn pages_follow_each_other_whatever_comes_and_goes() {
        let first = page(Some(2), None, &["d", "a", "c", "e"]).unwrap();
        assert_eq!((first.items, first.next.as_deref()), (vec!["a".into(), "c".into()], Some("c")));
        // One that is before the cursor came, that of the cursor went.
        let second = page(Some(2), Some("c"), &["d", "b", "a", "e"]).unwrap();
        assert_eq!((second.items, second.next), (vec!["d".into(), "e".into()], None));
        assert_eq!(page(Some(2), Some("e"), &["a"]).unwrap().items, [""; 0]);
        assert_eq!(page(None, Some("c"), &["d", "a", "e"]).unwrap().items, ["d", "e"]);
        let whole = page(None, None, &["d", "a"]).unwrap();
        assert_eq!((whole.items, whole.next), (vec!["d".into(), "a".into()], None), "as it was");
    }

    #[test]
    fn a_page_that_ends_early_is_gone_on_with() {
        for (count, items, next) in
            [(2, &["a", "c"][..], Some("c")), (3, &["a", "c", "d"], Some("d"))]
        {
            let mut page = page(Some(3), None, &["d", "a", "c", "e"]).unwrap();
            page.end_after(count, Clone::clone);
            assert_eq!(
                (page.items, page.next.as_deref()),
                (items.iter().map(|it| (*it).to_owned()).collect(), next)
            );
        }
    }

    #[test]
    fn the_answer_says_where_it_goes_on_only_if_it_does() {
        let show = |one: &String| json!(one);
        let Json(first) = page(Some(1), None, &["a", "b"]).unwrap().answer("names", show);
        assert_eq!(first, json!({"names": ["a"], "next": "a"}));
        let Json(last) = page(Some(1), Some("a"), &["a", "b"]).unwrap().answer("names", show);
        assert_eq!(last, json!({"names": ["b"]}));
    }

    #[test]
    fn a_limit_and_a_cursor_have_bounds() {
        let long = "x".repeat(CURSOR_BYTES_MAX + 1);
        for (limit, after) in [
            (Some(0), None),
            (Some(1_001), None),
            (None, Some("")),
            (None, Some("\n")),
            (None, Some(&*long)),
        ] {
            let refused = page(limit, after, &[]).unwrap_err();
            assert_eq!(refused.code(), "bad_request", "{limit:?} {after:?}");
        }
        assert!(page(Some(1_000), Some(&long[1..]), &[]).is_ok());
    }
}
