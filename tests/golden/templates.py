"""Constructs of chat templates and what transformers 5.23.0 with jinja2 3.1.6 makes of them, as `templates.json`.

The time that `strftime_now` takes is fixed. Where a template fails, `expected` is null and `error` names the exception.
"""

import datetime
import json
from pathlib import Path

import jinja2
import transformers
from transformers.utils.chat_template_utils import _cached_compile_jinja_template as compiled

NOW = 1751373296


def strftime_now(format):
    return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(format)


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a <city> & more: \"é\" 'x'",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "name"},
                "days": {"type": ["integer", "null"], "default": 3, "minimum": 0.5},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["city"],
        },
    },
}
CONTEXT = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "add_generation_prompt": True,
    "tools": [TOOL],
    "documents": None,
    "messages": [
        {"role": "system", "content": " Be brief. \n"},
        {"role": "user", "content": "Hi <b>\n\n"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello, Wörld!", "tool_calls": [
            {"id": "a1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2}}}]},
        {"role": "tool", "name": "weather", "content": "{\"t\": 1.5}"},
        {"role": "user", "content": [{"type": "text", "text": "and?"}, {"type": "image", "url": "u"}]},
    ],
    "n": 7,
    "f": 2.5,
    "big": 1e20,
    "small": 0.00001,
    "yes": True,
    "none": None,
    "text": "The quick  brown\tfox\njumps",
    "words": ["pear", "Apple", "fig", "apple"],
    "numbers": [3, 1, 2, 1],
    "mixed": [1, "a", None, True, 2.0, [1], {"k": "v"}],
    "table": {"b": 1, "a": 2, "C": 3},
    "people": [{"name": "Bo", "age": 5}, {"name": "al", "age": 3}, {"name": "Cy", "age": 5, "x": {"y": 1}}],
    "empty": [],
    "quote": "it's \"x\"",
}

LINES = r"""
{{ '  a b  '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcba'.lstrip('ab') }}|{{ 'abcba'.rstrip('ab') }}|
{{ 'a,b,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ ''.split(',') }} {{ ''.split() }}
{{ 'a.b.c'.rsplit('.', 1) }} {{ 'a.b.c'.rsplit('.', 1)[0] }} {{ ' a b  c '.rsplit(None, 1) }} {{ ' a b  c '.split(None, 1) }}
{{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('=') }} {{ 'abc'.rpartition('=') }}
{{ 'abc'.startswith('ab') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith('bc') }} {{ 'abc'.endswith(('x', 'y')) }}
{{ 'abcabc'.startswith('c', 2) }} {{ 'abc'.startswith('', 9) }} {{ 'abc'.endswith('b', 0, 2) }}
{{ 'aXbXc'.replace('X', '-') }} {{ 'aXbXc'.replace('X', '', 1) }} {{ 'abc'.replace('', '.') }}
{{ "they're bill's friends".title() }} {{ 'hello wORLD'.capitalize() }} {{ 'aBc'.swapcase() }} {{ 'ß'.upper() }} {{ 'STRASSE'.casefold() }}
{{ "they're bill's friends" | title }} {{ 'foo-bar (baz) {x}' | title }} {{ 'hello wORLD' | capitalize }}
{{ ', '.join(['a', 'b']) }} {{ ''.join([]) }} {{ '-'.join('abc') }}
{{ ', '.join([1, 2]) }}
{{ 'abcabc'.find('c') }} {{ 'abcabc'.rfind('c') }} {{ 'abc'.find('x') }} {{ 'aéb'.find('b') }} {{ 'abcabc'.index('b', 2) }}
{{ 'abc'.index('x') }}
{{ ' a b '.split(None, 1) }}{{ ' a b '.rsplit(None, 5) }}{{ ' a b c '.split(None, 0) }}{{ ' a b c '.rsplit(None, 0) }}
{{ 'banana'.count('an') }} {{ 'aaa'.count('') }} {{ 'banana'.count('a', 2) }}
{{ 'abc'.isdigit() }} {{ '12'.isdigit() }} {{ ''.isdigit() }} {{ '1.5'.isnumeric() }} {{ 'ab1'.isalnum() }} {{ 'ab'.isalpha() }} {{ ' \n'.isspace() }}
{{ 'abc'.islower() }} {{ 'ABC1'.isupper() }} {{ 'Abc Def'.istitle() }} {{ 'é'.isascii() }} {{ 'a_1'.isidentifier() }}
{{ '7'.zfill(3) }} {{ '-7'.zfill(4) }} {{ 'ab'.center(7, '*') }} {{ 'abc'.center(6, '*') }} {{ 'a'.ljust(3) }}| {{ 'a'.rjust(3, '0') }}
{{ 'TestHook'.removeprefix('Test') }} {{ 'MiscTests'.removesuffix('Tests') }} {{ 'x'.removeprefix('y') }}
{{ 'a\nb\r\nc\n'.splitlines() }} {{ 'a\nb'.splitlines(true) }} {{ 'a\tb'.expandtabs(4) }}
{{ '%s has %d' % ('a', 3) }} {{ '%s' % 'x' }} {{ '%5.1f|%-5s|%05d' % (2.25, 'ab', 42) }} {{ '%(a)s-%(b)03d' % {'a': 1, 'b': 2} }}
{{ '%x %X %o %#x %e %g %G %c %%' % (255, 255, 8, 255, 12345.678, 0.0000123, 1e20, 'z') }} {{ '%r' % 'a' }} {{ '%s' % [1, 2] }}
{{ '%+d % d %5d|%-5d|' % (1, 2, 3, 4) }} {{ '%.3s' % 'abcdef' }} {{ '%*d' % (5, 42) }} {{ '%i' % 3.99 }}
{{ '%d' % 'a' }}
{{ '%s %s' % ('a',) }}
{{ '%s' % ('a', 'b') }}
{{ '%s and %s' | format('a', 2) }} {{ '%(x)s' | format(x=1) }}
{{ '{} {}'.format('a', 2) }} {{ '{1}{0}'.format('a', 'b') }} {{ '{x:>5}|{x:<5}|{x:^5}|{x:*^5}'.format(x='ab') }} {{ '{:05.2f} {:,} {:x} {:b} {:%}'.format(3.14159, 1234567, 255, 5, 0.25) }}
{{ '{0[0]} {0[1]} {{}}'.format(['a', 'b']) }}
{{ '{0[a]} {0[b]}'.format({'a': 1, 'b': 'x'}) }} {{ '{!r}'.format('a') }} {{ '{:+d} {: d}'.format(1, 2) }} {{ '{:e}'.format(12345.6789) }}
{{ '{}'.format() }}
{{ '42' | int }} {{ '3.7' | int }} {{ 'x' | int }} {{ 'x' | int(9) }} {{ 2.9 | int }} {{ '0x1A' | int(0, 16) }} {{ '1010' | int(base=2) }} {{ none | int }} {{ true | int }}
{{ '1.5' | float }} {{ 'x' | float }} {{ 3 | float }} {{ 'x' | float(1.0) }} {{ '1e3' | float }} {{ 'inf' | float }}
{{ -3 | abs }} {{ (-3.5) | abs }} {{ (0 - n) | abs }}
{{ 2.5 | round }} {{ 3.5 | round }} {{ 42.555 | round(2) }} {{ 42.55 | round(1, 'floor') }} {{ 42.51 | round(1, 'ceil') }} {{ 7 | round }} {{ 2.675 | round(2) }} {{ 1234 | round(-2) }}
{{ 'Hello, big world_1' | wordcount }} {{ '' | wordcount }} {{ text | wordcount }}
{{ tools | tojson }}
{{ tools | tojson(indent=4) }}
{{ tools[0] | tojson(indent=2, sort_keys=true) }} {{ table | tojson(separators=(',', ':')) }}
{{ {'é': 'ü<>&\'"\n'} | tojson }} {{ {'é': '😀'} | tojson(ensure_ascii=true) }}
{{ [1, 1.0, 1e20, 1e-7, true, none, [], {}, (1, 2)] | tojson }} {{ [[], {}] | tojson(indent=2) }} {{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}
{{ missing | tojson }}
{{ {'a': missing} | tojson }}
{{ {'b': 1, 'a': 2} }} {% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}={{ v }};{% endfor %} {{ {'b': 1, 'a': 2} | tojson }}
{% for k in table %}{{ k }}{% endfor %} {{ table.keys() }} {{ table.values() }} {{ table.items() }} {{ table | list }} {{ table.keys() | list }}
{{ table.get('a') }} {{ table.get('z') }} {{ table.get('z', 5) }} {{ table['a'] }} {{ table.a }} {{ table.z }} {{ table['z'] is defined }}
{{ table.pop('a') }}
{{ table.update({'z': 1}) }}
{{ words.append('x') }}
{{ table.setdefault('q', 1) }}
{{ 1e20 }} {{ 1e16 }} {{ 123456789012345.0 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1.0 }} {{ 1.10 }} {{ big }} {{ small }} {{ f }} {{ 1/3 }} {{ 10/2 }} {{ -0.0 }} {{ 5e-324 }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 // -2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}
{{ 1 / 0 }}
{{ 1 % 0 }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ (1 + 2) * 3 }} {{ 1 + true }} {{ 1 ~ 2 ~ none ~ true ~ 1.5 }} {{ 1 ~ 2 + 3 }} {{ 'a' + 'b' * 2 }} {{ 10**15 }} {{ 10**30 }}
{{ 'a' + 1 }}
{{ 1 + none }}
{{ [1] + [2] }} {{ (1,) + (2,) }} {{ [1, 2] * 2 }} {{ 3 * 'ab' }} {{ 'ab' * 0 }} {{ 'ab' * -1 }}
{{ [1] + (2,) }}
{{ numbers[1:] }} {{ numbers[:-1] }} {{ numbers[::-1] }} {{ numbers[::2] }} {{ numbers[-2:] }} {{ numbers[3:1:-1] }} {{ numbers[5:] }} {{ numbers[-9:2] }} {{ 'abcdef'[::-2] }} {{ 'héllo'[1:3] }} {{ 'abc'[-1] }} {{ (1, 2, 3)[1:] }} {{ 'abc'[5:9] }} {{ 'abc'[2:1] }}
{{ numbers[0] }} {{ numbers[-1] }} {{ numbers[9] }}| {{ numbers.0 }} {{ 'abc'[9] }}| {{ mixed[6].k }} {{ mixed[6]['k'] }}
{{ numbers[::0] }}
{{ none[1:] }}| {{ none[0] }}| {{ none.x }}|
{{ messages[1:] | length }} {% set messages = messages[1:] %}{{ messages[0].role }} {{ messages[-1]['role'] }} {{ messages | length }}
{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ loop.index0 }} {{ loop.revindex }} {{ loop.revindex0 }} {{ loop.first }} {{ loop.last }} {{ loop.depth }} {{ loop.depth0 }};{% endfor %}
{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}>{{ loop.nextitem.role if loop.nextitem is defined else '-' }};{% endfor %}
{% for m in messages %}{{ loop.cycle('odd', 'even') }} {{ loop.changed(m.role) }} {% endfor %}
{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% else %}none{% endfor %}
{% for i in [] %}x{% else %}empty{% endfor %} {% for i in missing %}x{% else %}undefined{% endfor %} {% for c in 'añ' %}{{ c }}.{% endfor %}
{% for i in none %}x{% endfor %}
{% for i in 5 %}x{% endfor %}
{% for m in messages if m.role == 'user' %}{{ loop.index }}:{{ m.role }}/{{ loop.length }} {% endfor %}
{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }} {% endfor %} {% for (a, (b, c)) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}
{% for item in [{'n': 'a', 'c': [{'n': 'b', 'c': []}]}] recursive %}{{ item.n }}{{ loop.depth }}({{ loop(item.c) }}){% endfor %}
{% set x = 0 %}{% for i in range(3) %}{{ x }}{% set x = x + 1 %}{% endfor %}{{ x }}
{% set ns = namespace(x=0, s='') %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.x }} {{ ns.s }} {{ ns.missing }} {{ ns }} {{ namespace({'a': 1}, b=2).b }}
{% set ns = namespace() %}{% set ns.l = [] %}{% for i in range(3) %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.l }} {{ ns['l'] }}
{% set d.x = 1 %}
{% set ns = namespace() %}{% set ns._x = 1 %}{{ ns._x }}
{{ namespace(_a=1) }}
{{ dict.fromkeys(['a', 'b'], 1) }} {{ dict.fromkeys('xy') }}
{% if true %}{% set y = 5 %}{% endif %}{{ y }} {% set a, b = 1, 2 %}{{ a }}{{ b }} {% set c = 1, 2 %}{{ c }} {% set (d, e) = [3, 4] %}{{ d + e }}
{% set a, b = [1] %}
{% set t %}  x {{ n }}  {% endset %}[{{ t }}] {% set u | upper | trim %} abc {% endset %}[{{ u }}] {{ t is string }}
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }} {% with %}{% set z = 3 %}{{ z }}{% endwith %}{{ z }}
{% filter upper %}abc {{ n }}{% endfilter %} {% filter replace('a', 'b') | trim %} aa {% endfilter %}
{% macro f(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(b=5, a=4) }} {{ f() }} {{ f.name }} {{ f('x') | upper }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(z=2) }}
{% macro f() %}{{ varargs }} {{ kwargs }}{% endmacro %}{{ f(1, 2, x=3) }}
{% macro f(x) %}<{{ caller(x) }}>{% endmacro %}{% call(y) f(3) %}y={{ y }}{% endcall %} {% macro g() %}[{{ caller() }}]{% endmacro %}{% call g() %}{{ n }}{% endcall %}
{% macro f() %}x{% endmacro %}{% call f() %}y{% endcall %}
{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
{% macro outer() %}{{ q }}{% endmacro %}{% set q = 4 %}{{ outer() }}
{% generation %}{{ n }} hi{% endgeneration %} {%- generation -%}  y  {%- endgeneration %}
{{ raise_exception('bad ' ~ n) }}
{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d %H:%M:%S %A %B %j') }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | selectattr('tool_calls') | map(attribute='role') | list }} {{ messages | selectattr('tool_calls', 'defined') | list | length }}
{{ messages | rejectattr('role', 'in', ['user', 'tool']) | map(attribute='role') | join(',') }} {{ people | selectattr('age', '>', 3) | map(attribute='name') | list }} {{ people | selectattr('x.y', 'defined') | list | length }}
{{ numbers | select('odd') | list }} {{ numbers | reject('odd') | list }} {{ mixed | select('string') | list }} {{ [0, 1, ''] | select | list }} {{ numbers | select('greaterthan', 1) | list }} {{ numbers | select('divisibleby', 2) | list }}
{{ words | map('upper') | list }} {{ words | map('replace', 'p', 'q') | join(' ') }} {{ people | map(attribute='zip', default='?') | list }} {{ people | map(attribute='x.y') | list }} {{ [[1, 2], [3]] | map('length') | list }} {{ [[1, 2], [3, 4]] | map(attribute=1) | list }}
{{ words | map | list }}
{{ words | map('nofilter') | list }}
{{ words | nofilter }}
{{ n is notest }}
{% for g in people | groupby('age') %}{{ g.grouper }}:{{ g.list | map(attribute='name') | join('+') }} {% endfor %}{% for k, l in people | groupby('name') %}{{ k }}{{ l | length }} {% endfor %}
{{ table | dictsort }} {{ table | dictsort(true) }} {{ table | dictsort(by='value', reverse=true) }} {% for k, v in table | dictsort(false, 'value') %}{{ k }}{{ v }}{% endfor %}
{{ numbers | sort }} {{ words | sort }} {{ words | sort(case_sensitive=true) }} {{ numbers | sort(reverse=true) }} {{ people | sort(attribute='age') | map(attribute='name') | list }} {{ people | sort(attribute='age,name') | map(attribute='name') | list }}
{{ mixed | sort }}
{{ numbers | unique | list }} {{ words | unique | list }} {{ people | unique(attribute='age') | map(attribute='name') | list }}
{{ numbers | max }} {{ numbers | min }} {{ words | max }} {{ people | max(attribute='age') }} {{ empty | max }}| {{ numbers | sum }} {{ people | sum(attribute='age') }} {{ numbers | sum(start=10) }}
{{ ['a', 'b'] | sum }}
{{ words | first }} {{ words | last }} {{ empty | first }}| {{ 'abc' | first }} {{ table | first }} {{ words | length }} {{ table | count }} {{ 'añb' | length }}
{{ 5 | length }}
{{ numbers | reverse | list }} {{ 'abc' | reverse }} {{ 'abc' | list }} {{ [1, [2, 3]] | string }} {{ 5 | string | length }}
{{ numbers | join }} {{ numbers | join(', ') }} {{ people | join('/', attribute='name') }} {{ mixed | join('|') }} {{ table | join('-') }}
{{ missing | default('d') }} {{ '' | default('d') }}| {{ '' | default('d', true) }} {{ none | default('d') }} {{ missing | d }}| {{ table.z | default(table.a) }}
{{ [1, 2, 3, 4, 5] | batch(2) | list }} {{ [1, 2, 3] | batch(2, 'x') | list }} {{ [1, 2, 3, 4, 5] | slice(3) | list }} {{ [1, 2, 3, 4] | slice(3, 'x') | list }}
{{ 'a\nb\n\nc' | indent }} {{ 'a\nb' | indent(2, true) }} {{ 'a\n\nb' | indent(2, blank=true) }} {{ 'a\nb' | indent('> ') }} {{ 'a\nb\n' | indent(1) }}|
{{ 'foo bar baz qux' | truncate(9) }} {{ 'foo bar baz qux' | truncate(9, true) }} {{ 'foo bar baz qux' | truncate(11) }} {{ 'foo bar baz qux' | truncate(11, false, '', 0) }}
{{ ' a ' | trim }}| {{ 'xax' | trim('x') }} {{ 'a b' | upper }} {{ 'ABC' | lower }} {{ 'aXa' | replace('a', 'b', 1) }} {{ 5 | replace('5', 'x') }} {{ 'a' | center(5) }}|
{{ '<a href="x">\'&' | e }} {{ '<p>a  b</p> c' | striptags }} {{ '<b>' | safe }} {{ 5 | e }}
{{ table | items | list }} {{ missing | items | list }} {{ table | attr('a') }}| {{ 'x' | attr('upper') is defined }}
{{ n is defined }} {{ missing is undefined }} {{ missing is defined }} {{ none is none }} {{ n is none }} {{ table.z is defined }} {{ messages[9] is defined }} {{ messages[0].content is defined }}
{{ 'a' is string }} {{ 1 is number }} {{ true is number }} {{ 1 is integer }} {{ true is integer }} {{ 1.0 is float }} {{ yes is boolean }} {{ true is true }} {{ 1 is true }} {{ false is false }} {{ 1.5 is integer }}
{{ [] is sequence }} {{ 'a' is sequence }} {{ table is sequence }} {{ 1 is sequence }} {{ [] is iterable }} {{ 1 is iterable }} {{ 'a' is iterable }} {{ table is mapping }} {{ [] is mapping }} {{ range is callable }} {{ (1, 2) is sequence }}
{{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is eq 1 }} {{ 1 is equalto(2) }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 2 is ge 2 }} {{ 'a' is in 'abc' }} {{ 1 is in [1] }} {{ none is sameas none }} {{ 'abc' is lower }} {{ 'ABC' is upper }}
{{ n is not none }} {{ not n is none }} {{ n is not string and n is number }} {{ 'upper' is filter }} {{ 'x' is filter }} {{ 'odd' is test }} {{ 3 is odd or 1 is even }} {{ (3 is odd) ~ 'x' }}
{{ 'a' in 'abc' }} {{ 'a' not in 'abc' }} {{ 1 in [1, 2] }} {{ 'a' in table }} {{ 1 in (2, 3) }} {{ 'role' in messages[0] }} {{ none in [none] }} {{ 1.0 in [1] }} {{ 'x' in missing }} {{ 2 in range(3) }}
{{ 1 in 'abc' }}
{{ 'a' in none }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ (1, 2) == (1, 2) }} {{ [1] == (1,) }} {{ 1 == true }} {{ 'a' == 1 }} {{ none == none }} {{ missing == none }} {{ missing == missing2 }} {{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }} {{ 1 != 2 }} {{ 2 >= 2 }}
{{ 'a' < 1 }}
{{ none < 1 }}
{{ missing < 1 }}
{{ true and 'x' }} {{ '' or 'y' }} {{ none or false or 0 }} {{ 1 and 0 and 2 }} {{ not '' }} {{ not not [1] }} {{ [] or {} or 'z' }} {{ not true == false }}
{{ 'a' if yes else 'b' }} {{ 'a' if missing else 'b' }} {{ 'a' if false }}| {{ ('a' if false) is defined }} {{ 1 if false else 2 if false else 3 }} {{ 'x' if n > 5 and f else 'y' }}
{{ ('a' if false).x }}
{{ missing }}| {{ missing ~ 'x' }} {{ missing | length }} {{ missing | upper }}| {{ missing | list }} {{ [missing] }} {{ missing | join }}|
{{ missing.attr }}
{{ missing['x'] }}
{{ missing() }}
{{ missing + 1 }}
{{ messages[0].missing.deeper }}
{{ n() }}
{{ n.upper() }}
{{ none }} {{ true }} {{ false }} {{ None }} {{ True }} {{ [none, true] }} {{ {'a': none} }} {{ () }} {{ (1,) }} {{ [(1, 2), [], {}] }} {{ 'x' }} {{ ['x', "it's", 'q"'] }} {{ [quote] }}
{{ 'a\tb\\n\'\"\x41\u00e9\101' }} {{ "a'b" }} {{ 'a"b' }} {{ 'a' 'b' }} {{ ['a\nb\t\\', 'é', '\x00\x7f', '\u200b', '😀'] }} {{ 'a\qb' }}
{{ "{{ not a tag }}" }} {{ '{% if %}' }} {{ '}}' }} {{ {'a': {'b': 1}} }} {{ {'a': {'b': {'c': 1}}}['a']['b'].c }}
{{ 1_000 }} {{ 0x1f }} {{ 0b11 }} {{ 0o17 }} {{ 1.5e3 }} {{ 1e-3 }} {{ 00 }} {{ +3 }} {{ - 3 }}
{{ range(3) }} {{ range(3) | list }} {{ range(1, 10, 3) | list }} {{ range(5, 0, -2) | list }} {{ range(3)[1] }} {{ range(0) | list }} {{ dict(a=1, b=2) }} {{ range(10)[2:5] | list }}
{{ range(1000000) | length }}
{{ range(1.5) }}
{{ {'items': 5}['items'] }} {{ {'keys': 5}.get('keys') }} {{ messages[2].tool_calls[0].function.arguments.items() | list }} {{ messages[2]['tool_calls'][0]['function']['arguments']['city'] }}
{{ words.index('fig') }} {{ words.count('fig') }} {{ (1, 2, 1).count(1) }} {{ 'x'.upper is callable }} {{ words.missing }}|
{{ words.index('nope') }}
{{ (words | map('upper')) | first }} {% set g = words | map('upper') %}{{ g | first }} {{ g | list }} {{ g | list }}
{{ (words | map('upper')) | length }}
{{ [1, 2, 3,] }} {{ (1, 2,) }} {{ {'a': 1,} }} {{ [1, 2][0] }} {{ {'a': 1}.a }} {{ (1, 2)[1] }} {{ 'abc'.upper().lower().title() }} {{ ('a' ~ 'b').upper() }} {{ -n | abs }} {{ (n)|string ~ 'x' }}
{{ f(**{'a': 1}) if false }}| {{ dict(**{'x': 1}) }} {{ [1, 2] | join(*[',']) }} {{ '%s-%s' | format(*[1, 2]) }}
{% raw %}{{ x }} {% if %}{% endraw %} {# comment {{ n }} #}x {#- y -#} z
{{ '' .__class__ }}| {{ ''.__class__.__mro__ }}
{{ messages.__len__ }}| {{ table.__class__ }}|
{% include 'x' %}
{% import 'x' as y %}
{% extends 'x' %}
{% do 1 %}
{% if %}{% endif %}
{% if n %}
{{ n
{{ 'abc }}
{% endfor %}
{% for %}{% endfor %}
{{ 1 2 }}
{{ n | }}
{{ (1 }}
{{ [1 }}
{{ a.}}
{% set x %}
{% unknown %}
{% break %}
{{ foo bar }}
{{ 1 if }}
{% block a %}{{ n }}x{% endblock %} {% block b scoped %}y{% endblock b %}
{% set x = [1, 2, 3] %}{% set y = x[1:] %}{{ x }} {{ y }} {{ x is sameas x }}
{% set s = 'a' %}{% set s = s ~ 'b' %}{{ s }}{% if s == 'ab' %}{% set s = 'c' %}{% endif %}{{ s }}
{% for m in messages[::-1] %}{{ m.role[0] }}{% endfor %} {% for i in range(messages | length - 1, -1, -1) %}{{ i }}{% endfor %}
{% for a in [1, 2] %}{% for b in [3, 4] %}{{ loop.index }}{{ a }}{{ b }}{{ loop.parent }}{% endfor %}{% endfor %}
{% for a in [1, 2] %}{% set outer = loop %}{% for b in [3] %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}
{{ text.split('\n')[0].split(' ') }} {{ text.split() | length }} {{ messages[2].content.split('</think>')[-1].lstrip('\n') }} {{ messages[2].content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}
{% if messages[0].role == 'system' and messages[0].content is string and messages[0].content | trim | length > 0 %}{{ messages[0].content | trim }}{% elif false %}x{% else %}y{% endif %}
{% if messages[4].content is string %}s{% elif messages[4].content is iterable and messages[4].content is not mapping %}{% for c in messages[4].content if c.type == 'text' %}{{ c.text }}{% endfor %}{% endif %}
{{ tools | map(attribute='function') | map(attribute='name') | join(', ') }} {{ tools | selectattr('type', 'eq', 'function') | map(attribute='function.parameters.required') | list }}
{% set loop_messages = messages[1:] if messages[0]['role'] == 'system' else messages %}{{ loop_messages | length }} {{ (messages | selectattr('role', 'equalto', 'tool') | list)[0].content }}
{%- for k, v in tools[0].function.parameters.properties.items() %}{{ k }}: {{ v.type if v.type is string else v.type | join('|') }}{{ ',' if not loop.last }}{%- endfor %}
{{ messages | map(attribute='role') | list == ['system', 'user', 'assistant', 'tool', 'user'] }} {{ (messages | last).role }} {{ messages | first | attr('items') is defined }}
{{ 'x' * 3 ~ 'y' }} {{ 'a' ~ 1 + 2 }} {{ [1, 2] ~ '' }} {{ (1, 'a') | string }} {{ {'a': [1, {'b': none}]} | string }}
{% set message = {'role': 'user', 'content': 'x'} %}{{ message['role'] + ': ' + message.content }} {{ message | tojson }} {{ message.items() | map('join', '=') | join('&') }}
{{ 'yes' if 'image' in messages[4].content | map(attribute='type') else 'no' }} {{ messages[4].content | selectattr('type', 'ne', 'text') | list | length }}
{{ ['b', 'a'] | sort | join }} {{ {'z': 1, 'y': 2} | dictsort | map('first') | join }} {{ {'z': 1, 'y': 2} | tojson(sort_keys=true) }} {{ '%.2f' | format(3.14159) }} {{ '%05d' % 42 }} {{ 3.0 * 2 }} {{ 7 / 2 }} {{ 6 / 2 }}
{{ 100000000000000000000 + 1 }} {{ 2 ** 64 }} {{ 9007199254740993 }} {{ 9007199254740993 / 1 }} {{ 0.1 + 0.2 }} {{ 1e300 * 10 }} {{ 3 | float }} {{ '1_000' | int }} {{ ' 5 ' | int }} {{ 1.5 | string }}
{{ (1, 2, 3) | list }} {{ 'abc' | map('upper') | list }} {{ [3, 4] | sum / 2 }} {{ [['a', 1], ['b', 2]] | map('first') | list }} {{ dict(a=1) | tojson }} {{ dict([('a', 1), ('b', 2)]) }}
{{ {'a': 1} | length }} {{ {} | length }} {{ {1: 'x', 'b': 2}[1] }} {{ {true: 'x'}[1] }} {{ {(1, 2): 'x'}[(1, 2)] }} {{ {'a': 1, 'a': 2} }}
{{ {[1]: 2} }}
{{ 'a' ~ ('b' if n > 3 else 'c') ~ {'d': 'e'}['d'] }} {{ n if n is defined and n > 100 else 'small' }} {{ not (n > 3 and f > 3) }} {{ n > 3 and not f > 3 }}
""".strip("\n").split("\n")

# White space counts, so these have lines of their own.
BLOCKS = [
    "{% if yes %}\n  a\n{% endif %}\nb\n",
    "  {% if yes %}\n  a\n  {% endif %}\n  b",
    "x {% if yes %}\na\n{% endif %} y\n",
    "{%- for i in [1, 2] -%}\n  {{ i }}\n{%- endfor -%}\n end",
    "{%- for i in [1, 2] %}\n  {{ i }}\n{%- endfor %}\n end\n\n",
    "a\n  {%+ if yes %}\n b{% endif +%}\n c",
    "a\n\t{{- ' b ' -}}\n\n c",
    "  {{ n }}\n  {{ n }}  \n",
    "a  {# c #}\n  {# d #}\nb {#- e -#} \n f",
    "{# c #}\n{% set x = 1 %}\n{{ x }}\n\n{% set y = 2 %}\n\n{{ y }}\n",
    "a\r\n{% if yes %}\r\nb\r\n{% endif %}\rc\r",
    "  {% raw %}\n  {{ x }}\n  {% endraw %}\n z",
    "a {%- raw -%} {{ b }} {%- endraw -%} c",
    "{% for i in [1] %}{{ i }}{% endfor %}\n\n{% for i in [1] %}\n{{ i }}\n{% endfor %}\n",
    "{{ bos_token }}{% for message in messages %}\n{% if message.role == 'user' %}\n[INST] {{ message.content }} [/INST]\n    {%- elif message.role == 'assistant' %}\n{{ message.content }}{{ eos_token }}\n{%- endif %}\n{% endfor %}\n",
    "{% macro f(x) %}\n  {{ x }}\n{% endmacro %}\n[{{ f(1) }}]\n{%- call f(2) %}{% endcall %}",
    "{% macro f(x) -%}\n  {{ x }}\n{%- endmacro %}\n[{{ f(1) }}]\n",
    "{% set x %}\n  a\n  b\n{% endset %}[{{ x }}]",
    "{% if yes -%}\n\n  a  \n\n{%- else -%}  b {%- endif %}\n",
    "{{ 'a' }}\n{{ 'b' -}}\n{{ 'c' }}",
    "{{-\n  'a'\n  + 'b'\n-}}\n  x",
    "\n\n{% if yes %}\n\na\n\n{% endif %}\n\n",
    "{%- if yes %}{{ 'x' }}{% endif %}\n{%- generation %}\n  y\n{% endgeneration %}\nz",
    "{%- set ns = namespace(first=true) -%}\n{%- for m in messages -%}\n  {%- if ns.first -%}{%- set ns.first = false -%}A{%- else -%}B{%- endif -%}\n{%- endfor -%}",
]


def render(template):
    case = {"template": template, "expected": None}
    try:
        program = compiled(template)
        program.globals["strftime_now"] = strftime_now
        case["expected"] = program.render(**CONTEXT)
    except Exception as error:
        case["error"] = type(error).__name__
    return case


def main():
    cases = []
    for template in LINES + BLOCKS:
        case = render(template)
        # One that fails hides the others of its line.
        parts = template.replace("}} {{", "}}\n{{").split("\n")
        alone = "error" in case and template in LINES and len(parts) > 1 and "{%" not in template
        cases += [render(part) for part in parts] if alone else [case]
    versions = {"jinja2": jinja2.__version__, "transformers": transformers.__version__}
    golden = {"versions": versions, "now": NOW, "context": CONTEXT, "count": len(cases), "cases": cases}
    out = Path(__file__).with_name("templates.json")
    out.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")
    print(len(cases), "cases,", sum(case["expected"] is None for case in cases), "errors")


main()
