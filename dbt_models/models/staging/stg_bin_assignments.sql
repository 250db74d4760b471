with source as (

    select * from {{ source('lake', 'bin_assignments') }}

),

final as (

    select
        cast(week as date) as week,
        side,
        item_id,
        session_id,
        day,
        text_hash,
        bin as bin_id,
        cluster_id,
        distance,
        is_novel,
        is_in_sample,
        inclusion_probability,
        weight,
        weight_traffic,
        weighting,
        case_weight,
        taxonomy_id
    from source

)

select * from final
