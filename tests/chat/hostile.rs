//! Templates that were made to hold up or end the process that runs them.

use std::{sync::Mutex, thread};

use firebox::text::{GenerationPrompt, TokenizerError};

use crate::{COUNTING, apply};

/// Bytes that a template may take beside its own source: text and lists of 4 MiB, each at most a few at a time.
const BYTES_MAX: u64 = 64 << 20;

/// Calls, loops and values that never end, and sizes that no machine has.
const ENDLESS: [&str; 98] = [
    // Namespaces that lie in themselves: written, compared, joined, formatted.
    "{% set n = namespace() %}{% set n.a = n %}{{ n }}",
    "{% set n = namespace() %}{% set n.a = [n] %}{{ n }}",
    "{% set n = namespace() %}{% set n.a = {'x': [n]} %}{{ n ~ '' }}",
    "{% set n = namespace() %}{% set n.a = n %}{{ [n, n] | join }}",
    "{% set n = namespace() %}{% set n.a = n %}{{ n | string | length }}",
    "{% set n = namespace() %}{% set n.a = n %}{{ n | tojson }}",
    "{% set n = namespace() %}{% set n.a = n %}{{ '%s' % n }}",
    "{% set n = namespace() %}{% set n.a = n %}{{ '{}'.format(n) }}",
    "{% set n = namespace() %}{% set n.a = n %}{{ raise_exception(n) }}",
    "{% set n = namespace() %}{% set m = namespace(a=n) %}{% set n.a = m %}{{ m | pprint }}",
    // Doubled again and again.
    "{% set n = namespace(v=1) %}{% for i in range(90) %}{% set n.v = namespace(a=n.v, b=n.v) %}{% endfor %}{{ n }}",
    "{% set n = namespace(l=[]) %}{% for i in range(200) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
    "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s * 2 %}{% endfor %}",
    "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = [n.s, n.s] | join(n.s) %}{% endfor %}",
    "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s | replace('a', 'aa') %}{% endfor %}",
    "{% set n = namespace(s='aa') %}{% for i in range(60) %}{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}",
    "{% set n = namespace(s='aa') %}{% for i in range(60) %}{% set n.s = '%s%s' % (n.s, n.s) %}{% endfor %}",
    "{% set n = namespace(s='aa') %}{% for i in range(60) %}{% set n.s = '{0}{0}'.format(n.s) %}{% endfor %}",
    "{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = n.l + n.l %}{% endfor %}",
    "{% set n = namespace(l=[1]) %}{% for i in range(90) %}{% set n.l = (n.l * 2) | batch(2) | list %}{% endfor %}{{ n.l }}",
    // Deeper and deeper.
    "{% set n = namespace(l=[]) %}{% for i in range(90000) %}{% set n.l = [n.l] %}{% endfor %}{{ n.l }}",
    "{% set n = namespace(v=1) %}{% for i in range(90000) %}{% set n.v = {'v': n.v} %}{% endfor %}{{ n.v | tojson }}",
    "{% set n = namespace(v=1) %}{% for i in range(90000) %}{% set n.v = (n.v,) %}{% endfor %}{{ n.v == n.v }}",
    "{% set n = namespace(v=1) %}{% for i in range(90000) %}{% set n.v = namespace(v=n.v) %}{% endfor %}{{ n }}",
    "{% set n = namespace(v=[1]) %}{% for i in range(90000) %}{% set n.v = n.v | batch(1) %}{% endfor %}{{ n.v | list }}",
    // Calls that never end, and those that end too late.
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(x) %}{{ f([x, x]) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(x) %}{{ g(x) }}{% endmacro %}{% macro g(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{% call f() %}x{% endcall %}",
    "{% macro f(a=f()) %}x{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(20) }}",
    "{% macro f() %}{{ f(*varargs) }}{% endmacro %}{{ f(*range(90000)) }}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% for x in [1, 2] recursive %}{{ loop([x, x]) }}{% endfor %}",
    "{% for i in range(10**9) %}{% endfor %}x",
    "{% for i in range(99999) %}{% for j in range(99999) %}aaaaaaaa{% endfor %}{% endfor %}",
    "{% set n = namespace(l=[]) %}{% for i in range(99999) %}{% set n.l = n.l + [range(99999) | list] %}{% endfor %}",
    "{{ [1] | map('map', 'map', 'map', 'string') | list }}",
    // Sizes.
    "{{ 'a'.center(10000000000) }}",
    "{{ 'a'.zfill(10000000000) }}",
    "{{ 'a'.ljust(10**30) }}",
    "{{ 'a' | center(10**12) }}",
    "{{ ('\\t' * 1000).expandtabs(10**12) | length }}{{ 'a' * 10**10 }}",
    "{{ '{:>10000000000}'.format(1) }}",
    "{{ '{:>{w}}'.format('a', w=10**10) }}",
    "{{ '{:.10000000f}'.format(1.5) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '%*d' % (10**10, 1) }}",
    "{{ '%.1000000000f' % 1.5 }}",
    "{{ '%.1000000000d' % 1 }}",
    "{{ '%s' * 10**9 }}",
    "{{ 'a' * 10**9 }}",
    "{{ 10**18 * 'a' }}",
    "{{ [1] * 10**9 }}",
    "{{ (1,) * 10**30 }}",
    "{{ 10**10**10 }}",
    "{{ 9**9**9**9 }}",
    "{{ range(0, 10**30) }}",
    "{{ [1, [2]] | tojson(indent=10**10) }}",
    "{{ [1, [2]] | tojson(indent='a' * 4000000) }}",
    "{{ range(1000) | list | tojson(separators=('a' * 100000, 'b')) }}",
    "{{ ('a' * 100000).replace('a', 'b' * 100000) | length }}",
    "{{ ('a' * 1000000) | replace('', 'b' * 1000000) }}",
    "{{ ('\\n' * 100000) | indent(100000, true, true) }}",
    "{{ 'a\\nb' | indent(10**12) }}",
    "{{ [1] | slice(10**12) | list }}",
    "{{ [1] | batch(10**12, 'x') | list }}",
    "{{ (['a' * 1000] * 1000) | join('b' * 10000) | length }}",
    "{{ strftime_now('%999999999d') }}",
    "{{ ('9' * 100000) | int }}",
    "{{ raise_exception('a' * 100000000) }}",
    // Work that grows with a long text each time.
    "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s.find('b') }}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ 'b' in s }}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s | length }}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s[-1] }}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s | upper | length }}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s is lower }}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s.split('a') | length }}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{{ s.strip('b' * 1000000 ~ 'a') }}",
    "{% set s = [1] * 100000 %}{% for i in range(99999) %}{{ s[1:] | length }}{% endfor %}",
    "{% set s = [1] * 100000 %}{% for i in range(99999) %}{{ s == [1] * 100000 }}{% endfor %}",
    "{% set s = range(99999) | list %}{% for i in range(99999) %}{{ s | sort | length }}{% endfor %}",
    // Numbers at the ends of their type.
    "{{ (-(2**126) * 2) // -1 }}",
    "{{ -(-(2**126) * 2) }}",
    "{{ (-(2**126) * 2) | abs }}",
    "{{ (-(2**126) * 2) is divisibleby(-1) }}",
    "{{ '%c' % 1114112 }}",
    "{{ 1e999999 | int }}",
    // Cut short.
    "{{ '\\",
    "{{ '\\x",
    "{{ '\\ud800' }}",
    "{{ '\\xé' }}",
    "{{ '{' . format() }}",
    "{{ '%' % 1 }}",
    "{{ '%(a' % {} }}",
    "{% raw %}{{ x }}",
];

/// Opened once and again, so deep that a parser which calls itself ends the process: what is repeated, how often, and what
/// stands in front and behind.
const DEEP: [(&str, &str, &str, usize); 24] = [
    ("{{ ", "(", "1", 100_000),
    ("{{ ", "[", "1", 100_000),
    ("{{ ", "{1:", "1", 60_000),
    ("{{ ", "f(", "1", 60_000),
    ("{{ ", "a[", "1", 60_000),
    ("{{ ", "not ", "1 }}", 60_000),
    ("{{ ", "-", "1 }}", 200_000),
    ("{{ ", "+ ", "1 }}", 100_000),
    ("{{ 1", " if 1 else 1", " }}", 20_000),
    ("{{ 1", " if 0", " }}", 20_000),
    ("{% set ", "(", "a", 100_000),
    ("{% for ", "(", "a", 100_000),
    ("", "{% if 1 %}", "", 20_000),
    ("", "{% for a in [1] %}", "", 10_000),
    ("", "{% with %}", "", 20_000),
    ("", "{% set a %}", "", 20_000),
    ("", "{% macro a() %}", "", 15_000),
    ("", "{% call f() %}", "", 15_000),
    ("", "{% filter e %}", "", 15_000),
    ("", "{% generation %}", "", 15_000),
    ("{% set a = [1] %}", "{% set a = [a] %}", "{{ a }}", 15_000),
    ("{{ 9", "9", "}}", 100_000),
    ("", "{#", "", 100_000),
    ("", "{% raw %}", "", 20_000),
];

/// Long, but not deep: these give a text.
const LONG: [(&str, &str, &str, usize); 10] = [
    ("{{ 1", "+1", " }}", 50_000),
    ("{{ 1", "~1", " }}", 50_000),
    ("{{ 1", " and 1", " }}", 30_000),
    ("{{ 1", " or 1", " }}", 30_000),
    ("{{ 1", "|e", " }}", 50_000),
    ("{{ 1", "**1", " }}", 50_000),
    ("{% if 0 %}", "{% elif 0 %}", "{% endif %}", 15_000),
    ("{{ ", "'a' ", "}}", 40_000),
    ("{{ [", "1,", "] | length }}", 50_000),
    ("{% set n = namespace() %}{% set n.a = n %}", "", "x", 1),
];

fn repeated((front, part, behind, count): (&str, &str, &str, usize)) -> String {
    format!("{front}{}{behind}", part.repeat(count))
}

/// Memory is that of the whole process, so one of these tests runs at a time.
static MEMORY: Mutex<()> = Mutex::new(());

/// Runs a template as a server does, on a thread with the stack that threads have.
fn on_a_thread(template: &str) -> (Result<String, TokenizerError>, u64) {
    let template = template.to_owned();
    let before = COUNTING.live();
    let run = move || {
        let (text, most) = COUNTING.most(|| apply(&template, &[], GenerationPrompt::Omit));
        (text, most.saturating_sub(before))
    };
    let thread = thread::Builder::new().stack_size(2 << 20).spawn(run);
    thread.unwrap().join().unwrap()
}

/// A template is a file from the internet. One that overflows the stack or asks for 8 GB ends a server that merely read a
/// model; one that never ends holds up a thread for ever.
#[test]
fn hostile_templates_are_errors() {
    let _alone = MEMORY.lock();
    let deep = DEEP.map(repeated);
    let huge = "x".repeat(3_000_000);
    let all = ENDLESS.into_iter().chain(deep.iter().map(String::as_str));
    for template in all.chain([huge.as_str()]) {
        let shown: String = template.chars().take(120).collect();
        let (found, bytes) = on_a_thread(template);
        assert!(
            matches!(found, Err(TokenizerError::Template { .. })),
            "{shown}: {:?}",
            found.map(|text| text.len())
        );
        assert!(bytes < BYTES_MAX, "{shown}: {bytes} bytes");
    }
}

/// The error says both numbers, so that a template that honestly needs more can be told from a hostile one.
#[test]
fn a_value_that_is_too_large_is_said_so() {
    let _alone = MEMORY.lock();
    for template in ["{{ 'a' * 10**9 }}", "{{ 'a' | center(10**9) }}"] {
        let (found, _) = on_a_thread(template);
        let error = found.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(
            cause.contains("line 1: the template makes a value of 1000000")
                || cause.contains("line 1: the template makes a value of 999999"),
            "{cause}"
        );
        assert!(cause.contains("at most 419"), "{cause}");
    }
}

/// Bounds that were too narrow would refuse what Jinja2 takes.
#[test]
fn long_templates_are_no_errors() {
    let _alone = MEMORY.lock();
    for template in LONG.map(repeated) {
        let shown: String = template.chars().take(60).collect();
        let (found, _) = on_a_thread(&template);
        assert!(found.is_ok(), "{shown}: {found:?}");
    }
}

/// What a template may take grows with the conversation: a long one must not be refused as an endless one.
#[test]
fn a_long_conversation_is_no_error() {
    let _alone = MEMORY.lock();
    let turns = (0..5_000).flat_map(|turn| {
        let text = format!("{turn} {}", "lorem ipsum ".repeat(20));
        [
            firebox::text::Message::user(text.clone()),
            firebox::text::Message::assistant(text),
        ]
    });
    let turns: Vec<_> = turns.collect();
    let text = apply(crate::LLAMA, &turns, GenerationPrompt::Add).unwrap();
    assert!(text.len() > 2_000_000);
}

/// Each render of a namespace that lies in itself would keep its memory for ever.
#[test]
fn cycles_are_freed() {
    let _alone = MEMORY.lock();
    let render = || {
        let template = "{% set n = namespace(s='a' * 100000) %}{% set n.a = [n] %}{% for x in ['b' * 100000] %}{{ loop.changed(loop) }}{% endfor %}";
        apply(template, &[], GenerationPrompt::Omit).unwrap();
    };
    render();
    let before = COUNTING.live();
    for _ in 0..50 {
        render();
    }
    let kept = COUNTING.live().saturating_sub(before);
    assert!(kept < 2_000_000, "{kept} bytes");
}
