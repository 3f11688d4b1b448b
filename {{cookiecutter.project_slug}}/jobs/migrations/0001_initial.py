import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Job",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("task", models.CharField(max_length=200)),
                ("args", models.JSONField(default=list)),
                ("created", models.DateTimeField(auto_now_add=True, db_index=True)),
                (
                    "sent",
                    models.BooleanField(default=False, help_text="The broker has taken it."),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        fields=["created"],
                        condition=models.Q(("sent", False)),
                        name="jobs_job_waiting",
                    )
                ],
            },
        ),
    ]
