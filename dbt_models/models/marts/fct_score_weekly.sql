with scores as (

    select * from {{ ref('stg_suite_scores') }}

),

final as (

    select
        week,
        as_of,
        is_provisional,
        run_id,
        run_name,
        ran_on,
        run_age_days,
        n_cases,
        n_scored,
        n_passed,
        n_unscored,
        n_missing,
        n_changed,
        pass_rate,
        pass_rate_low,
        pass_rate_high,
        weighted_pass_rate,
        weighted_pass_rate_se,
        weighted_pass_rate_low,
        weighted_pass_rate_high,
        covered_share,
        bound_low,
        bound_high,
        reason,
        weighting,
        taxonomy_id,
        n_bins,
        jsd,
        jsd_sd,
        pass_rate_signals,
        pass_rate_signals_se,
        pass_rate_llm,
        pass_rate_llm_se,
        latency_p95_ms,
        cost_per_trace_usd,
        compared_week,
        jsd_change,
        jsd_change_se,
        jsd_trend,
        n_paired,
        score_change,
        score_change_se,
        score_trend,
        served_score_change,
        served_score_change_se,
        served_score_trend,
        production_grader,
        production_change,
        production_change_se,
        production_trend,
        overfitting_p,
        diagnosis,
        diagnosis_text,
        -- Null in the first week with a run, and wherever either week has none.
        run_id <> lag(run_id) over (order by week) as is_new_run
    from scores
    order by week

)

select * from final
