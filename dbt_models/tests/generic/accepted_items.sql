{# accepted_values for a column of lists. #}
{% test accepted_items(model, column_name, values) %}

with rows_to_check as (

    select * from {{ model }}

),

items as (

    select unnest({{ column_name }}) as item from rows_to_check

),

final as (

    select * from items
    where item not in ('{{ values | join("', '") }}')

)

select * from final

{% endtest %}
