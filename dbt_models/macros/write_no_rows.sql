{#
    An external model without rows is written by dbt-duckdb as one row of nulls. Readers of the file deserve none.
#}
{% macro write_no_rows() %}
    {%- if execute and run_query("select count(*) from " ~ this)[0][0] == 0 -%}
        copy (select * from {{ this }} limit 0) to '{{ external_location(this, config) }}' (format parquet)
    {%- endif -%}
{% endmacro %}
