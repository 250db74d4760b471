{# Days from one moment to a later one, with fractions; independent of the session's time zone and its clock changes. #}
{% macro days_between(earlier, later) -%}
    (epoch_us({{ later }}) - epoch_us({{ earlier }})) / 86400e6
{%- endmacro %}
