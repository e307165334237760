//! Names that templates know: methods, filters, tests and functions, each list with spaces between.

use super::datum::Datum;

/// Filters.
pub(super) const FILTERS: &str = "abs attr batch capitalize center count d default dictsort e escape first float \
    forceescape format groupby indent int items join last length list lower map max min \
    pprint reject rejectattr replace reverse round safe select selectattr slice sort \
    string striptags sum title tojson trim truncate unique upper wordcount";

/// Tests.
pub(super) const TESTS: &str = "defined undefined none boolean true false integer float number string sequence \
    iterable mapping callable sameas eq equalto == ne != lt lessthan < le <= gt \
    greaterthan > ge >= in odd even divisibleby lower upper escaped filter test";

/// Functions.
pub(super) const FUNCTIONS: [&str; 5] = [
    "range",
    "dict",
    "namespace",
    "raise_exception",
    "strftime_now",
];

const OF_TEXT: &str = "strip lstrip rstrip split rsplit splitlines partition rpartition startswith endswith \
    replace title upper lower capitalize swapcase casefold join find rfind index rindex \
    count format format_map isdigit isnumeric isdecimal isalpha isalnum isspace islower \
    isupper istitle isascii isidentifier zfill center ljust rjust removeprefix \
    removesuffix expandtabs";
const OF_DICT: &str = "get items keys values copy";
const OF_LIST: &str = "count index copy";
const OF_TUPLE: &str = "count index";

/// Methods that change a list or dictionary.
pub(super) const CHANGE_DICT: &str = "pop popitem update setdefault clear";
pub(super) const CHANGE_LIST: &str = "append extend insert pop remove clear sort reverse";

/// Whether a value has a method of this name.
pub(super) fn has_method(value: &Datum, name: &str) -> bool {
    match value {
        Datum::Str(_) => is_in(OF_TEXT, name),
        Datum::Dict(_) => is_in(OF_DICT, name) || is_in(CHANGE_DICT, name),
        Datum::List(_) => is_in(OF_LIST, name) || is_in(CHANGE_LIST, name),
        Datum::Tuple(_) => is_in(OF_TUPLE, name),
        Datum::Loop(_) => matches!(name, "cycle" | "changed"),
        Datum::Function(function) => *function == "dict" && name == "fromkeys",
        _ => false,
    }
}

/// Whether a name is one of those in a list with spaces between.
pub(super) fn is_in(list: &str, name: &str) -> bool {
    list.split(' ').any(|one| one == name)
}
