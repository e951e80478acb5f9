//! Which rights the catalog's routes need. A table is `namespace.name`, levels of the namespace
//! joined by dots; a namespace has no rules of its own, but those of the tables that are or could
//! be in it.

use iceberg::{NamespaceIdent, TableIdent, TableRequirement};

use super::error::Failure;
use crate::auth::{Kind, Operation, Resource};
use crate::http::auth::Caller;
use crate::table::catalog::TableChange;

/// A table as rules name it.
fn name_of(table: &TableIdent) -> String {
    format!("{}{}", beginning(table.namespace()), table.name())
}

/// What the names of all tables in `namespace` begin with.
fn beginning(namespace: &NamespaceIdent) -> String {
    namespace.iter().map(|level| format!("{level}.")).collect()
}

/// Checks the right to do `operation` to `table`.
pub(super) fn table(
    caller: &Caller,
    operation: Operation,
    table: &TableIdent,
) -> Result<(), Failure> {
    any(caller, &[operation], table)
}

/// Checks the right to load `table`: readers do, and so do writers before they commit.
pub(super) fn load(caller: &Caller, table: &TableIdent) -> Result<(), Failure> {
    any(caller, &[Operation::Read, Operation::Write], table)
}

/// Checks the right to commit `change`: to write, or to create where it makes the table.
pub(super) fn commit(caller: &Caller, change: &TableChange) -> Result<(), Failure> {
    let makes = change.requirements.iter().any(|one| matches!(one, TableRequirement::NotExist));
    table(caller, if makes { Operation::Create } else { Operation::Write }, &change.ident)
}

fn any(caller: &Caller, operations: &[Operation], table: &TableIdent) -> Result<(), Failure> {
    let name = name_of(table);
    let resource = Resource::Table(&name);
    if operations.iter().any(|operation| caller.may(*operation, resource)) {
        return Ok(());
    }
    Err(Failure::forbidden(caller.refusal_text(operations[0], resource)))
}

/// True if the caller may see `table`.
pub(super) fn sees_table(caller: &Caller, table: &TableIdent) -> bool {
    caller.may(Operation::Describe, Resource::Table(&name_of(table)))
}

/// True if the caller may see that `namespace` is there: some table in it, or below it.
pub(super) fn sees(caller: &Caller, namespace: &NamespaceIdent) -> bool {
    caller.0.may_some(Operation::Describe, Kind::Table, &beginning(namespace))
        || caller.0.may_some(Operation::Create, Kind::Table, &beginning(namespace))
}

/// [`sees`], as an answer.
pub(super) fn check_sees(caller: &Caller, namespace: &NamespaceIdent) -> Result<(), Failure> {
    if sees(caller, namespace) {
        return Ok(());
    }
    Err(missing(caller, Operation::Describe, namespace))
}

/// Checks the right to do `operation` to every table that could be in `namespace`.
pub(super) fn whole(
    caller: &Caller,
    operation: Operation,
    namespace: &NamespaceIdent,
) -> Result<(), Failure> {
    if caller.0.may_every(operation, Kind::Table, &beginning(namespace)) {
        return Ok(());
    }
    Err(missing(caller, operation, namespace))
}

fn missing(caller: &Caller, operation: Operation, namespace: &NamespaceIdent) -> Failure {
    let every = format!("{}*", beginning(namespace));
    Failure::forbidden(caller.refusal_text(operation, Resource::Table(&every)))
}

/// True if the caller may get what is needed to reach the files of tables.
pub(super) fn may_reach_files(caller: &Caller) -> bool {
    let may = |operation| caller.0.may_some(operation, Kind::Table, "");
    may(Operation::Read) || may(Operation::Write) || may(Operation::Create)
}
