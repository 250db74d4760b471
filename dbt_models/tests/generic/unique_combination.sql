{% test unique_combination(model, combination) %}

with rows_to_check as (

    select * from {{ model }}

),

repeated as (

    select
        {{ combination | join(", ") }},
        count(*) as n_rows
    from rows_to_check
    group by all
    having count(*) > 1

),

final as (

    select * from repeated

)

select * from final

{% endtest %}
