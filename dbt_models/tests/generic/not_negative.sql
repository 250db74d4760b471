{% test not_negative(model, column_name) %}

with rows_to_check as (

    select * from {{ model }}

),

final as (

    select * from rows_to_check
    where {{ column_name }} < 0

)

select * from final

{% endtest %}
