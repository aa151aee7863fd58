"""Descriptions of Spark jobs."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from iotid.spark.phases import set_phase


@pytest.mark.spark
def test_set_phase__a_job_has_the_description_that_was_set_last(spark: SparkSession) -> None:
    context = spark.sparkContext
    set_phase(None, "take-census", "nothing to describe")
    set_phase(spark, "assemble-flows", "read captures")
    assert context.getLocalProperty("spark.job.description") == "assemble-flows: read captures"
    set_phase(spark, "split-pcaps", "x" * 1000)
    assert len(str(context.getLocalProperty("spark.job.description"))) == 200
    context.setJobDescription("")
